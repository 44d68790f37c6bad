"""Which credit rule to take: draws choose.svg, and writes the same in words for docs/credit.md (`worked.py` puts it there).

    .venv/bin/python docs/pictures/choose.py

What is measured stands in docs/runs and in docs/credit.md; an advice without a measurement says so.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
BETTER, SAME = "better", "same"
"""In a toy task: better than the simple control; little or no better."""


@dataclass(frozen=True)
class Advice:
    """take: the rules. short: why, for the picture. why: the same with numbers and links, in Markdown."""

    take: str
    short: str
    why: str
    kind: str


@dataclass(frozen=True)
class Step:
    """A question, and what follows from a yes; with a no the next step is asked."""

    asks: str
    yes: Advice


@dataclass(frozen=True)
class Way:
    """begins: which teams. steps: in order. else_: where every answer was no."""

    begins: str
    steps: tuple[Step, ...]
    else_: Advice


WAYS = (
    Way(
        "The outcome is one answer",
        (
            Step(
                "Is there a reference answer, and does the last speaker say it at once, in one spelling?",
                Advice(
                    "likelihood, last_gradient: exact",
                    "ahead of shared in 7 of 10 settings",
                    "No decode. Ahead of `shared` in training in seven of ten settings, by +.012 +- .008 to +.079 +- .054, and of `shared_history` in six "
                    "([eight seeds](runs/regimes.md)); with two sessions a prompt it ends +.023 +- .017 above `shared` ([ten seeds](runs/cpu_dyad.md)). It "
                    "reads the reference's text: say so beside any result. Where the last speaker writes a chain first, the answer is no. Where its "
                    "spelling follows the thought, too: the team ended .545 +- .035 below `shared`.",
                    BETTER,
                ),
            ),
            Step(
                "Is there a reference answer, in a box behind what the last speaker works out?",
                Advice(
                    "likelihood, reference_after: chain",
                    "+.05 in training; one setting, eight seeds",
                    "No decode. With a Reason that writes a step first it leads `shared` by +.049 +- .023 in training, `shared_history` by +.018 +- .017, and "
                    "ends +.040 +- .047 above `shared` ([eight seeds](runs/cpu_steps.md)). Unbiased for every token, in any spelling. Without "
                    "`reference_after: chain` the rule ends .198 +- .158 below `shared` there.",
                    BETTER,
                ),
            ),
            Step(
                "Must the roles be told apart, and may you decode for it?",
                Advice(
                    "resampling",
                    "no better, 44 % more tokens",
                    "Unbiased for every role of any team, and it reads no reference. -.007 +- .020 against `shared` at the end, -.005 +- .012 in "
                    "training, for 44 % more tokens ([ten seeds](runs/cpu_dyad.md)); with thoughts eight times as long as answers +.010 +- .069 and "
                    "+.045 +- .052 ([eight seeds](runs/regimes.md)), with a Reason that writes a step first -.024 +- .031 and -.008 +- .020 "
                    "([eight seeds](runs/cpu_steps.md)).",
                    SAME,
                ),
            ),
        ),
        Advice(
            "shared_history",
            "now and then ahead, never behind",
            "No decode, and no group is needed: with one session a prompt `shared` has none. In training ahead of `shared` with a noisy Reason, "
            "+.022 +- .012, in the chain with two sessions, +.037 +- .022, and with a Reason that writes a step first, +.030 +- .026 "
            "([eight seeds](runs/cpu_steps.md)); elsewhere little or nothing, and never behind. `counterfactual`, the paper's "
            "principle, is nowhere told apart from it and decodes 6 to 45 % more tokens than `shared` ([eight seeds](runs/regimes.md)).",
            SAME,
        ),
    ),
    Way(
        "The outcome is a vote",
        (
            Step(
                "Do the voters hear each other?",
                Advice(
                    "shared",
                    "nothing was told apart from it, in one setting",
                    "In the one setting tried, five voters with a second round, nothing is told apart from it: `own_correctness` +.040 +- .084 in training, "
                    "`leave_one_out` -.062 +- .065. The latter plays the deliberation again without the voter, for 3.4 times the tokens, and one of its eight "
                    "seeds ended with nobody voting ([eight seeds](runs/regimes.md#a-second-round)). `marginal` and `resampled` are refused.",
                    SAME,
                ),
            ),
            Step(
                "May a voter abstain, and can wrong guesses outvote those who know?",
                Advice(
                    "leave_one_out or resampled",
                    "+.13 and +.12 against shared; ten seeds",
                    "Seven voters, two sessions a prompt: +.134 +- .052 and +.123 +- .066 against `shared` "
                    "([ten seeds](runs/cpu_silence.md#fewer-sessions-on-other-seeds)). With six sessions `shared` learns it, too, only "
                    "later: they lead by +.036 +- .021 and "
                    "+.040 +- .020 in training. `own_correctness` teaches everybody to speak, and ends .146 +- .025 below `shared` ([eight "
                    "seeds](runs/regimes.md)).",
                    BETTER,
                ),
            ),
        ),
        Advice(
            "own_correctness",
            "ahead of shared in 9 of 9 settings",
            "The simple control: where being right helps the team, paying each voter for being right is mostly as good as anything, and ahead of `shared` in "
            "training in nine of nine settings, by +.029 +- .021 to +.099 +- .063. `leave_one_out` and `resampled` are ahead of "
            "`shared`, too, and of it only where voters are "
            "specialists (`leave_one_out` +.044 +- .034 in training) or weak (`resampled` +.023 +- .019; [eight seeds](runs/regimes.md)).",
            BETTER,
        ),
    ),
)


# --- in words ---------------------------------------------------------------------------------------------------------


def code(take: str) -> str:
    """Names of rules and settings as code."""
    return re.sub(r"\w+(: \w+)?", lambda name: "or" if name[0] == "or" else f"`{name[0]}`", take)


def words() -> str:
    """The tree as nested bullets."""
    lines = []
    for way in WAYS:
        lines.append(f"- **{way.begins}.**")
        for depth, step in enumerate(way.steps, 1):
            space = "  " * depth
            lines += [f"{space}- *{step.asks}* Yes: {code(step.yes.take)}. {step.yes.why}", f"{space}- No:"]
        lines[-1] += f" {code(way.else_.take)}. {way.else_.why}"
    return "\n".join(lines)


# --- the picture ------------------------------------------------------------------------------------------------------

WIDTH, ASKED, TAKEN = 420, (2, 208), (246, 172)  # left end and width of the questions and of the advice
LINE, PAD, GAP = 19, 10, 26
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1f2328 } .head { font-weight: 600; font-size: 17px }
.take { font: 600 13px ui-monospace, monospace } .small { font-size: 13px; fill: #59636e }
rect { rx: 6px; stroke-width: 1.5; fill: #ffffff; stroke: #9aa4af } .better { stroke: #1a7f37; stroke-width: 2.5 }
.same { stroke: #59636e }
line { stroke: #9aa4af; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } rect { fill: #161b22; stroke: #6e7681 }
  .better { stroke: #3fb950 } .same { stroke: #9198a1 }
}
"""
LEGEND = ((BETTER, "better in a toy task"), (SAME, "little or no difference"))


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def svg(title: str, width: float, height: float, style: str, parts: list[str]) -> str:
    """A drawing that is shown a little larger than its units, and shrinks to a narrow page."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 60}" viewBox="0 0 {width} {height:g}" role="img" aria-label="{title}">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def box(place: tuple[float, float], y: float, lines: list[tuple[str, str]], kind: str, height: float) -> list[str]:
    x, width = place
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{kind}"/>']
    top = y + (height - LINE * len(lines)) / 2
    return parts + [text(x + PAD, top + LINE * i + 14, words, style) for i, (words, style) in enumerate(lines)]


def asked(step: Step) -> list[tuple[str, str]]:
    return [(words, "") for words in textwrap.wrap(step.asks, 23)]


def taken(advice: Advice, wide: int = 20) -> list[tuple[str, str]]:
    take = [(words, "take") for words in textwrap.wrap(advice.take, wide - 1, break_long_words=False)]
    return take + [(words, "small") for words in textwrap.wrap(advice.short, wide)]


def height_of(lines: list[tuple[str, str]]) -> float:
    return LINE * len(lines) + 2 * PAD


def picture() -> str:
    """The tree, one way below the other."""
    y, parts, middle = 0.0, [], ASKED[0] + 24
    for way in WAYS:
        y += 26
        parts.append(text(ASKED[0], y, way.begins, "head"))
        y += 14
        for step in way.steps:
            question, advice = asked(step), taken(step.yes)
            height = max(height_of(question), height_of(advice))
            parts += box(ASKED, y, question, "ask", height)
            right, centre = ASKED[0] + ASKED[1], y + height / 2
            parts += [
                line(right, centre, TAKEN[0], centre),
                text((right + TAKEN[0]) / 2, centre - 6, "yes", "small", "middle"),
            ]
            parts += box(TAKEN, y, advice, step.yes.kind, height)
            parts += [
                line(middle, y + height, middle, y + height + GAP),
                text(middle + 8, y + height + 18, "no", "small"),
            ]
            y += height + GAP
        last = taken(way.else_, 25)
        parts += box(ASKED, y, last, way.else_.kind, height_of(last))
        y += height_of(last) + 18
    for i, (kind, words) in enumerate(LEGEND):
        x, top = ASKED[0] + 190 * i, y + 8
        parts += [
            f'<rect x="{x + 1}" y="{top}" width="22" height="16" class="{kind}"/>',
            text(x + 32, top + 13, words, "small"),
        ]
    y += 34
    return svg("Which credit rule to take: questions, and what was measured", WIDTH, y, STYLE, parts)


if __name__ == "__main__":
    (HERE / "choose.svg").write_text(picture(), encoding="utf-8")
