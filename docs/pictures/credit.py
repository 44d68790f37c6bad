"""Draws credit.svg: three sessions of the dyad, the same program without Think, and what each rule pays Think.

    .venv/bin/python docs/pictures/credit.py

The sessions are made up; the credit is computed.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from ccpo import CreditConfig, Sessions, StepSettings, compute_advantages  # noqa: E402

SESSIONS = (  # question, what Think says, the team's answer, R, Reason's answer alone, R without Think, in words
    ("6*7?", "30 and 12", "42", 1, "46", 0, "decided it"),
    ("2+3?", "add them", "5", 1, "5", 1, "was not needed"),
    ("2+3?", "multiply", "6", 0, "5", 1, "did harm"),
)
WIDTH, TOP, ROW = 560, 84, 82
SAID, ALONE, SHARED, OWN = 60, 278, 410, 497  # left ends, and centres of the last two columns
STYLE = """
text { font: 15px system-ui, sans-serif; fill: #1f2328 }
.head { font-size: 14px; fill: #59636e } .big { font-size: 22px; font-weight: 600 } .small { font-size: 13px; fill: #59636e }
rect { rx: 6px; stroke-width: 1.5; fill: #ffffff } .think { stroke: #d1602f } .reason { stroke: #1b6ca8 }
line { stroke: #9aa4af; stroke-width: 1.5 } .rule { stroke: #d1d9e0; stroke-width: 1 }
.right { fill: #1a7f37 } .wrong { fill: #b3261e } .none { fill: #59636e }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .head, .small, .none { fill: #9198a1 } rect { fill: #161b22 }
  .rule { stroke: #30363d } .right { fill: #3fb950 } .wrong { fill: #f0716a }
}
"""


def credit() -> dict[str, list[float]]:
    """What a rule pays Think in each of `SESSIONS`, without normalization."""
    rows = [(str(i), 0, float(s[3]), {"think": float(s[5]), "reason": 0.0}) for i, s in enumerate(SESSIONS)]
    table, paid = Sessions.from_table(rows), {}
    for rule in ("shared", "removal"):
        settings = StepSettings(CreditConfig(rule, normalize="none", coefficient=1.0))
        result = compute_advantages(table, settings)
        paid[rule] = result.credit_SV[:, table.roles.index("think")].tolist()
    return paid


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, words: str, kind: str) -> str:
    inside = text(x + width / 2, y + 22, words, anchor="middle")
    return f'<rect x="{x}" y="{y}" width="{width}" height="34" class="{kind}"/>{inside}'


def verdict(x: float, y: float, right: float) -> str:
    return text(x, y, "right" if right else "wrong", "right" if right else "wrong")


def paid_text(value: float) -> tuple[str, str]:
    number = f"{value:+.0f}".replace("-", "\N{MINUS SIGN}") if value else "0"
    return number, "right" if value > 0 else "wrong" if value < 0 else "none"


def picture() -> str:
    paid, height = credit(), TOP + ROW * len(SESSIONS) + 8
    parts = [
        text(SAID, 44, "Think, then Reason", "head"),
        text(ALONE, 44, "without", "head"),
        text(ALONE, 62, "Think", "head"),
        text((SHARED + OWN) / 2, 20, "Think is paid", "", "middle"),
        text(SHARED, 44, "shared", "head", "middle"),
        text(SHARED, 62, "R", "small", "middle"),
        text(OWN, 44, "contribution", "head", "middle"),
        text(OWN, 62, "R \N{MINUS SIGN} R without", "small", "middle"),
    ]
    for i, (question, thought, answer, right, alone, right_alone, words) in enumerate(SESSIONS):
        y = TOP + ROW * i
        parts += [
            f'<line x1="8" y1="{y - 8}" x2="{WIDTH - 8}" y2="{y - 8}" class="rule"/>',
            text(8, y + 36, question),
            box(SAID, y + 14, 90, thought, "think"),
            f'<line x1="{SAID + 90}" y1="{y + 31}" x2="{SAID + 106}" y2="{y + 31}"/>',
            box(SAID + 106, y + 14, 38, answer, "reason"),
            verdict(SAID + 152, y + 36, right),
            box(ALONE, y + 14, 38, alone, "reason"),
            verdict(ALONE + 46, y + 36, right_alone),
        ]
        for x, value in ((SHARED, paid["shared"][i]), (OWN, paid["removal"][i])):
            number, kind = paid_text(value)
            parts.append(text(x, y + 38, number, f"big {kind}", "middle"))
        parts.append(text(OWN, y + 58, words, "small", "middle"))
    body = "\n".join(parts)
    title = "What Think is paid: shared reward, and its own contribution"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


if __name__ == "__main__":
    (HERE / "credit.svg").write_text(picture(), encoding="utf-8")
