"""A team is a program, and its credit comes from running it again.

session.py   what a program may do: say, read, answer, plurality
replay.py    the counterfactuals: the same program with one role changed, reusing every turn that did not hear it
plan.py      the same program without a model: who hears whom, how many turns and decodes
load.py      a team by name, package path or file; its prompts
dyad.py, vote.py   the paper's two teams; their prompts stand beside them in YAML
"""

from ccpo.team.session import Outcome, Quote, Session, Team, Turn

__all__ = ["Outcome", "Quote", "Session", "Team", "Turn"]
