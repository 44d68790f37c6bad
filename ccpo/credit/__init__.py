"""Credit rules: what each role of a session contributed, from columns (`ccpo.types.Sessions`).

rules.py       the registry: one row per rule, with its source, what it needs and whether it tells the roles apart
shared.py      the team's value for every role, or a coin
removal.py     minus what the team gets without a role
siblings.py    minus what the prompt's other sessions got
resampling.py  minus what the team gets when the role speaks again
likelihood.py  what a turn changed about how likely the last speaker finds the reference answer
ballots.py     rules that read the ballots of a plurality
recombine.py   what a ballot is worth among resampled co-voters
published.py   the published rules, with their flaws
normalize.py   credit -> advantage: by history, by group, centred
history.py     the history
"""
