"""Writes the worked examples of docs/credit.md between its markers: what each credit rule pays for the same few sessions. Draws two_sessions.svg.

    .venv/bin/python docs/pictures/worked.py

The sessions are made up; which replays they carry is the team's plan, and credit and advantage are computed by `ccpo.step`, with every setting
at its default but those that an example names. A rule of `ccpo.credit.rules` without an example stops the script, and the test.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent)]
sys.path.append(str(HERE))

import choose  # noqa: E402

from ccpo import ReplayRecord, SessionRecord, Sessions, StepResult, TurnRecord, compute_advantages  # noqa: E402
from ccpo.config import CcpoConfig  # noqa: E402
from ccpo.credit.base import CreditConfig  # noqa: E402
from ccpo.credit.rules import RULES  # noqa: E402
from ccpo.plurality import vote_value  # noqa: E402
from ccpo.types import REMOVE  # noqa: E402

PAGE = HERE.parent / "credit.md"


# --- the sessions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dyad:
    """A session of the dyad. alone: R of Reason without a thought, decoded beside this session. again: R of another answer of Reason to
    this thought. before, after: how likely Reason finds the reference answer without the thought, and with it."""

    prompt: str
    thought: str
    answer: str
    right: float
    alone: float
    again: float
    before: float
    after: float


DYAD = {
    "A1": Dyad("6*7?", "30 and 12", "42", 1, 0, 1, 0.1, 0.9),
    "A2": Dyad("6*7?", "36 and 6", "42", 1, 0, 0, 0.1, 0.6),
    "A3": Dyad("6*7?", "6 and 7", "13", 0, 1, 0, 0.1, 0.05),
    "A4": Dyad("6*7?", "30 and 12", "32", 0, 0, 1, 0.1, 0.9),
    "B1": Dyad("2+3?", "3 and 2", "5", 1, 1, 1, 0.9, 0.95),
    "B2": Dyad("2+3?", "one by one", "5", 1, 1, 1, 0.9, 0.9),
    "B3": Dyad("2+3?", "2 times 3", "6", 0, 0, 0, 0.9, 0.1),
    "B4": Dyad("2+3?", "not sure", "5", 1, 1, 1, 0.9, 0.85),
}
TRUTH = "7"
VOTE = {  # ballots of three voters on one question; None: an abstention
    "V1": ("7", "7", "8"),
    "V2": ("7", "8", "8"),
    "V3": ("7", None, "8"),
    "V4": ("7", "7", "7"),
}


def sessions(team: str, config: CcpoConfig) -> Sessions:
    """The sessions of a team, each with the replays that a job of this configuration decodes for it."""
    said, roles = {"dyad": DYAD, "vote": VOTE}[team], config.plan.roles
    number: dict[str, int] = {}
    records = []
    for one in said.values():
        prompt = one.prompt if team == "dyad" else "?"
        k = number[prompt] = number.get(prompt, -1) + 1
        n = sum((other.prompt if team == "dyad" else "?") == prompt for other in said.values())
        replays = []
        for do in config.replays(k, n, validating=False):
            planned = config.plan.replay(do.how, do.role)
            value = without(one, do.how, do.role, roles)
            replays.append(ReplayRecord(do.how, do.role, value, planned.shared, planned.decodes))
        turns = tuple(TurnRecord(role) for role in roles)
        if team == "dyad":
            likelihoods = (one.before, one.after)
            records.append(SessionRecord(prompt, k, one.right, turns, tuple(replays), likelihoods=likelihoods))
        else:
            ballots = dict(zip(roles, one, strict=True))
            records.append(SessionRecord(prompt, k, vote_value(one, TRUTH), turns, tuple(replays), ballots, TRUTH))
    return Sessions.from_records(records, roles)


def without(one: Dyad | tuple, how: str, role: str, roles: tuple[str, ...]) -> float:
    """What the team gets in a replay."""
    if isinstance(one, tuple):
        return vote_value([ballot for name, ballot in zip(roles, one, strict=True) if name != role], TRUTH)
    if how != REMOVE:
        return one.again
    return one.alone if role == "think" else 0.0  # without its last speaker the team has no answer


# --- the examples -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """What a rule is shown on.

    team:     whose sessions. says: what the number says, in plain words.
    notice:   what to see in it. ``{think_A1}`` is a credit, ``{adv_think_A1}`` an advantage, ``{then_think_A1}`` a credit with the settings
              ``then`` in a second step, whose history has seen the sessions once; ``{beta}`` the coefficient fitted there.
    settings: of the table, besides the rule.
    """

    team: str
    says: str
    notice: tuple[str, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    then: Mapping[str, object] = field(default_factory=dict)


PLAIN = {"coefficient": 1.0}  # the plain difference; by default the coefficient is fitted, and 0 in the first step
EXAMPLES = {
    "shared": Example(
        "dyad",
        "Everybody gets R. It is compared with the prompt's own sessions: minus their mean, over their deviation. This is GRPO.",
        (
            "A4 had the thought of A1, and an answer that slipped. Both roles get {adv_think_A4}, as in A3, whose thought was bad.",
            "B3 is the only failure of its prompt: {adv_think_B3}. A3 is one of two: {adv_think_A3}.",
        ),
    ),
    "shared_history": Example(
        "dyad",
        "Everybody gets R. It is compared with all steps so far, whatever the prompt.",
        (
            "A right answer to the easy B counts as much as one to the hard A: {adv_think_B1} and {adv_think_A1}.",
            "It needs no group. In a group of one, or of equal rewards, `shared` has nothing to say.",
        ),
    ),
    "shrinkage": Example(
        "dyad",
        "R minus what the prompt's other sessions got. Where those are few and noisy, the baseline leans on the other prompts.",
        (
            "The others of A1 got 1/3 on average, the other prompt 3/4. Here the other prompts weigh {shrinkage}, so A1 gets {think_A1}.",
            "Both roles get the same number.",
        ),
    ),
    "random_reward": Example(
        "dyad",
        "A coin, thrown once a session, for everybody: a control.",
        (
            "B3 is wrong and gets {think_B3}. A1 is right and gets {think_A1}.",
            "What a run gains with it came from elsewhere: clipping, the model's own habits, chance. Such rewards have raised the scores of some models "
            "(arXiv 2506.10947): run it before believing a small gain.",
            "The coin is fair: one that falls as often as the team is right would know how often it is. Equal runs, and resumed ones, throw the same coins.",
        ),
    ),
    "counterfactual": Example(
        "dyad",
        "R minus what Reason gets alone, for both roles: what did the session add to what was there without Think?",
        (
            "A1 gets {think_A1}: alone, Reason fails at A. B1 gets {think_B1}: Think was not needed. B3 gets {think_B3}: the team lost what Reason had.",
            "Reason alone is decoded beside the first two sessions of a prompt, and serves all four.",
            "The table has the plain difference (`coefficient: 1`). By default the history fits how much of it is taken away: nothing in the first step, "
            "{beta} of it after one such step. Then A1 gets {then_think_A1} and B1 {then_think_B1}.",
        ),
        PLAIN,
    ),
    "removal": Example(
        "dyad",
        "R minus what the team gets without this very role.",
        (
            "For Think that is the number of `counterfactual`.",
            "Without Reason there is no answer, which is worth 0. So Reason's credit is R itself.",
            "A4 costs Think nothing, as Reason alone fails there, too. The history then takes away each role's own mean: {adv_think_A4} for Think, "
            "{adv_reason_A4} for Reason.",
            "The coefficient is fitted here, too: {beta} for Think after one such step.",
        ),
        PLAIN,
    ),
    "resampling": Example(
        "dyad",
        "R minus what the team gets when this role speaks again in the same place.",
        (
            "A4: Reason answered the same thought again and was right. So the slip is its own: {reason_A4}.",
            "A2: it answered again and was wrong. So being right is its merit: {reason_A2}.",
            "Think speaks first: the prompt's other sessions are its other attempts, and nothing is decoded. A1 gets {think_A1}, as the others got 1/3.",
            "The good thought of A4 still costs Think {think_A4}: one sampled answer speaks for it, and that was wrong.",
        ),
    ),
    "likelihood": Example(
        "dyad",
        "What the thought changed about Reason's chance of the right answer. Reason gets R minus that chance.",
        (
            "A4: the thought raised the chance from .10 to .90, so Think gets {think_A4}. The slip is Reason's: {reason_A4}.",
            'B4: "not sure" gets {think_B4}. Under `resampling` it got its part of the right answer, which Reason knew anyway.',
            "A session's credits add up to R minus the chance without any thought. In A4: {think_A4} and {reason_A4}, together -.10.",
            "With `negative_slope: .25` what a thought takes away counts a quarter: in B3 {then_think_B3}. That is biased on purpose.",
            "Here Reason answers at once. Where it works something out first, that is another chance: set `reference_after: chain` "
            "([how](method.md#behind-the-chain)). All roles then get R with less luck in it, and this no longer tells them apart.",
        ),
        then={"negative_slope": 0.25},
    ),
    "leave_one_out": Example(
        "vote",
        "R minus the vote without this voter.",
        (
            "V1: without voter_0 it is a tie, worth .50. So it gets {voter_0_V1}, and voter_1 the same. voter_2 was outvoted: {voter_2_V1}.",
            "V3: the wrong ballot of voter_2 made a tie of a win: {voter_2_V3}. The abstention cost nothing: {voter_1_V3}.",
            "V4: all are right, so nobody decides: {voter_0_V4} for each. The history takes away each voter's own mean, which makes it "
            "{adv_voter_0_V4} for voter_0, who often decides, and {adv_voter_2_V4} for voter_2, who mostly does harm.",
        ),
    ),
    "marginal": Example(
        "vote",
        "R minus what this vote would have been with the ballots that the voter cast in the prompt's other sessions.",
        (
            "V2: voter_1's other ballots are 7, none and 7. With them the team would have got 1, .50 and 1, on average .83. It got 0: {voter_1_V2}.",
            "voter_0 always says 7. There is no other ballot to compare with: {voter_0_V1} in every session.",
        ),
    ),
    "resampled": Example(
        "vote",
        "The same, averaged over all votes that can be made of the sessions' ballots.",
        (
            "V4: voter_1's 7 changed nothing in its own vote, where `marginal` pays 0. In other votes it decides: {voter_1_V4}.",
            "So less hangs on which co-voters a session happened to have.",
        ),
    ),
    "shapley": Example(
        "vote",
        "The team's R, split among the voters: what each adds, averaged over all orders in which they might come.",
        (
            "V4: a third for each. V1: {voter_0_V1}, {voter_1_V1} and {voter_2_V1}, together R, which is 1.",
            "V2: the team is wrong. The voter who was right gets {voter_0_V2}, the two who outvoted it {voter_1_V2} each: together 0.",
            "To split a value is not to follow it: these numbers have another gradient than the team's.",
        ),
    ),
    "own_correctness": Example(
        "vote",
        "1 for a right ballot, 0 for any other. A control: there is no team in it.",
        (
            "V2: voter_0 gets {voter_0_V2}, although the team lost.",
            "A wrong ballot (V2, voter_1: {voter_1_V2}) costs no more than an abstention (V3, voter_1: {voter_1_V3}). So guessing always pays.",
            "With `wrong_price: 1` the first is worth {then_voter_1_V2} and the second {then_voter_1_V3}: speak where right with p > c / (1 + c), c the price.",
            "voter_0 is right everywhere. In its group all credits are equal, so its advantage is {adv_voter_0_V1}.",
        ),
        then={"wrong_price": 1.0},
    ),
    "paper_v1": Example(
        "dyad",
        "Think: did this session beat one run of Reason alone? Reason: a mix of R and of that other run's verdict.",
        (
            "A3 and A4 are both wrong. Think gets {think_A3} and {think_A4}, because a run of Reason alone happened to be right beside A3. Neither session "
            "had a part in that run.",
            "From the second step on, Reason's tokens are paid for that other run, too. A1 and B1 are both right: {then_reason_A1} and {then_reason_B1}.",
        ),
    ),
    "event_v2": Example(
        "dyad",
        "R as +1 or -1. Think gets .20 more where the team is right and Reason alone mostly wrong, and .20 less in the reverse case.",
        (
            "Think's advantage is Reason's times 1.1, in every session: {adv_think_A1} and {adv_reason_A1}, {adv_think_B3} and {adv_reason_B3}.",
            "A bonus for the right answers of a group stretches the group. It tells nobody apart.",
        ),
    ),
}


def compute(rule: str, example: Example) -> tuple[Sessions, StepResult, StepResult]:
    """(the sessions, the first step, a second one with the same sessions and the settings ``then``)."""
    first, second = (
        CcpoConfig(team=example.team, credit=CreditConfig(rule, **settings))
        for settings in (example.settings, example.then)
    )
    table = sessions(example.team, first)
    result = compute_advantages(table, first.step_settings)
    again = compute_advantages(sessions(example.team, second), second.step_settings, result.state)
    return table, result, again


# --- the page ---------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """A signed number as the pages write it: +.75, -1.12, +1, 0."""
    text = f"{round(value, 9):+.2f}".removesuffix(".00")  # .375 is .38 whatever its last bit
    return "0" if float(text) == 0 else text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def plain(value: float) -> str:
    """As `number`, without the plus."""
    return number(value).removeprefix("+")


def what_was_said(label: str) -> str:
    if label in DYAD:
        return f"{label}: {DYAD[label].thought}, {DYAD[label].answer}"
    return f"{label}: {' '.join(ballot or '-' for ballot in VOTE[label])}"


def title(role: str) -> str:
    return role.capitalize() if role in ("think", "reason") else role


def rule_text(rule: str) -> str:
    """A rule's part of the page."""
    example = EXAMPLES[rule]
    table, result, again = compute(rule, example)
    roles, labels = table.roles, list(DYAD if example.team == "dyad" else VOTE)
    same = len(roles) == 2 and (result.credit_SV[:, 0] == result.credit_SV[:, 1]).all()
    same = same and abs(result.advantage_SV[:, 0] - result.advantage_SV[:, 1]).max() < 1e-9
    columns = [0] if same else range(len(roles))
    names = ["both roles"] if same else [title(role) for role in roles]
    lines = [
        f"### `{rule}`",
        "",
        example.says,
        "",
        f"`{RULES[rule].equation}`",
        "",
        f"| {' | '.join(['session', 'R', *names])} |",
        f"|{'---|' * (len(names) + 2)}",
    ]
    for s, label in enumerate(labels):
        cells = [f"{number(result.credit_SV[s, v])} ({number(result.advantage_SV[s, v])})" for v in columns]
        lines.append(f"| {' | '.join([what_was_said(label), plain(table.value_S[s]), *cells])} |")
    values = {}
    for s, label in enumerate(labels):
        for v, role in enumerate(roles):
            values[f"{role}_{label}"] = number(result.credit_SV[s, v])
            values[f"adv_{role}_{label}"] = number(result.advantage_SV[s, v])
            values[f"then_{role}_{label}"] = number(again.credit_SV[s, v])
    for name, value in again.metrics.items():
        if name in ("credit/baseline_coefficient", "think/baseline_coefficient"):
            values["beta"] = plain(value)
        if name == "credit/shrinkage":
            values["shrinkage"] = plain(value)
    return "\n".join([*lines, "", *(f"- {line.format(**values)}" for line in example.notice)])


def dyad_text() -> str:
    lines = ["| session | Think | Reason | R | alone | again | chance |", "|---|---|---|---|---|---|---|"]
    for label, one in DYAD.items():
        chance = f"{plain(one.before)} to {plain(one.after)}"
        cells = [label, one.thought, one.answer, *map(plain, (one.right, one.alone, one.again)), chance]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def vote_text() -> str:
    lines = ["| session | voter_0 | voter_1 | voter_2 | R |", "|---|---|---|---|---|"]
    for label, ballots in VOTE.items():
        cells = [label, *(ballot or "-" for ballot in ballots), plain(vote_value(ballots, TRUTH))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sources_text() -> str:
    lines = ["| rule | source | normalized by | unbiased |", "|---|---|---|---|"]
    for name in EXAMPLES:
        rule = RULES[name]
        lines.append(f"| [`{name}`](#{name}) | {rule.source} | {rule.natural} | {'yes' if rule.unbiased else 'no'} |")
    return "\n".join(lines)


def parts() -> dict[str, str]:
    """Marker -> what stands between it and its end. Raises ValueError for a rule without an example."""
    if missing := [rule for rule in RULES if rule not in EXAMPLES]:
        raise ValueError(
            f"no example of {', '.join(missing)}: readers meet every rule on the same sessions; add it to EXAMPLES"
        )
    fixed = {
        "dyad": dyad_text(),
        "vote": vote_text(),
        "sources": sources_text(),
        "choice": choose.words(),
    }
    return fixed | {f"rule {rule}": rule_text(rule) for rule in RULES}


def written(page: str) -> str:
    """The page with its marked parts made anew. Raises ValueError where a marker is missing, stands twice, or is unknown."""
    made = parts()
    marker = re.compile(r"<!-- worked: (.+?) -->\n.*?<!-- end -->", re.S)
    found = marker.findall(page)
    if sorted(found) != sorted(made):
        odd = sorted(set(found) ^ set(made)) or sorted({name for name in found if found.count(name) > 1})
        raise ValueError(
            f"{PAGE.name} has to have one marker of each part, and differs in: {', '.join(odd)}; write <!-- worked: NAME --> and <!-- end -->"
        )
    return marker.sub(lambda part: f"<!-- worked: {part[1]} -->\n\n{made[part[1]]}\n\n<!-- end -->", page)


# --- the picture ------------------------------------------------------------------------------------------------------

SHOWN = (("A4", "a good thought,", "then a slip"), ("B4", "an empty thought,", "a right answer"))
WIDTH, TOP, ROW, BAR = 420, 96, 42, 15
CENTRES, UNIT = (196, 340), 18  # of the two panels; pixels of an advantage of 1
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .head { font-weight: 600; font-size: 15px } .small { fill: #59636e }
.rule { font: 13px ui-monospace, monospace } .think { fill: #d1602f } .reason { fill: #1b6ca8 }
line { stroke: #9aa4af; stroke-width: 1.5 } .thin { stroke: #d1d9e0; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .reason { fill: #4a9edd } .think { fill: #e5814f } .thin { stroke: #30363d }
}
"""


def picture() -> str:
    """The advantages of two sessions of the dyad under every rule that fits it."""
    text, line = choose.text, choose.line
    rules = [rule for rule, example in EXAMPLES.items() if example.team == "dyad"]
    height = TOP + ROW * len(rules) + 34
    parts = []
    for (label, *about), x in zip(SHOWN, CENTRES, strict=True):
        parts.append(text(x, 18, label, "head", "middle"))
        parts += [text(x, 37 + 17 * i, words, "small", "middle") for i, words in enumerate(about)]
        parts.append(text(x, 80, "less <  0  > more", "small", "middle"))
        parts.append(line(x, TOP - 6, x, height - 34))
    for i, rule in enumerate(rules):
        y = TOP + ROW * i
        parts.append(f'<line x1="2" y1="{y - 4}" x2="{WIDTH - 2}" y2="{y - 4}" class="thin"/>')
        parts.append(text(2, y + ROW / 2, rule, "rule"))
        _, result, _ = compute(rule, EXAMPLES[rule])
        for (label, *_), x in zip(SHOWN, CENTRES, strict=True):
            for role, value in enumerate(result.advantage_SV[list(DYAD).index(label)]):
                top, wide = y + 2 + (BAR + 2) * role, round(abs(value) * UNIT, 1)
                left = x if value > 0 else round(x - wide, 1)
                kind = ("think", "reason")[role]
                parts.append(f'<rect x="{left}" y="{top}" width="{wide}" height="{BAR}" class="{kind}"/>')
                end, anchor = (x + wide + 4, "start") if value >= 0 else (x - wide - 4, "end")
                parts.append(text(round(end, 1), top + 12, number(value), "", anchor))
    for kind, x in (("think", 126), ("reason", 226)):
        parts.append(f'<rect x="{x}" y="{height - 20}" width="22" height="14" class="{kind}"/>')
        parts.append(text(x + 30, height - 8, title(kind)))
    name = "What Think and Reason are paid for two sessions, under every rule"
    return choose.svg(name, WIDTH, height, STYLE, parts)


if __name__ == "__main__":
    (HERE / "two_sessions.svg").write_text(picture(), encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
