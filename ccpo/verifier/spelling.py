"""How an answer is spelled: what LaTeX, Unicode and markup add without meaning, and where a text's boxes are."""

from __future__ import annotations

import re
from functools import lru_cache

# Characters that people and models write instead of LaTeX. Nothing else outside ASCII is read: a digit of another script, an invisible
# character inside a number and a letter that only looks like a Latin one are no spelling of ours.
_SYMBOLS = {
    **{sign: "-" for sign in "\u2212\u2013\u2014\u2010\u2011"},
    **{space: " " for space in "\u00a0\u2009\u202f\u2002\u2003\u3000"},
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # fullwidth forms
    **{
        sign: f"^{{{digit}}}"
        for digit, sign in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    },
    **{
        sign: f"_{{{digit}}}"
        for digit, sign in enumerate("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089")
    },
    **{
        sign: f" \\frac{{{top}}}{{{bottom}}} "
        for sign, (top, bottom) in {
            "½": (1, 2),
            "⅓": (1, 3),
            "⅔": (2, 3),
            "¼": (1, 4),
            "¾": (3, 4),
            "⅕": (1, 5),
            "⅖": (2, 5),
            "⅗": (3, 5),
            "⅘": (4, 5),
            "⅙": (1, 6),
            "⅚": (5, 6),
            "⅛": (1, 8),
            "⅜": (3, 8),
            "⅝": (5, 8),
            "⅞": (7, 8),
        }.items()
    },  # fmt: skip
    "°": "^{\\circ}",
    "²": "^{2}",
    "×": "\\times ",
    "·": "\\cdot ",
    "⋅": "\\cdot ",
    "÷": "\\div ",
    "±": "\\pm ",
    "√": "\\sqrt ",
    "π": "\\pi ",
    "θ": "\\theta ",
    "∞": "\\infty ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "≠": "\\ne ",
    "≈": "\\approx ",
    "∪": "\\cup ",
    "∈": "\\in ",
    "¬": "\\neg ",
    "’": "'",
    "≡": "\\equiv ",
    "∅": "\\emptyset ",
    "ℝ": "\\mathbb{R} ",
    "∛": "\\sqrt[3]",
    "∜": "\\sqrt[4]",
    "\u2044": "/",
    "€": " \\text{ euros} ",
    "£": " \\text{ pounds} ",
    "₹": " \\text{ rupees} ",
}
_TRANSLATION = str.maketrans(_SYMBOLS)

GROUP = "\ue000"  # a comma that can only be one between thousands: {,} or ,\!
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|\\(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])|(?<=\S)~|\s")
_NOTHING = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|displaystyle|textstyle|limits|rm|bf|it"
    r"|tiny|small|normalsize|large|Large|LARGE|huge|Huge|bfseries|mathstrut)(?![a-zA-Z])\s?|\\(?:textcolor|color)\s?\{[a-zA-Z]+\}"
    r"|(?<!\\)\\[!()\[\]]|(?<!\\)\$|\\phantom\s?\{[^{}]*\}"
)
# Spellings of one thing: pattern -> what it is read as, in this order.
_FUNCTION = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp"
_SAME = [
    (re.compile(pattern), spelled)
    for pattern, spelled in (
        (r"\\(?:[dtc]|nice|s)frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\(?:text|math)dollar(?![a-zA-Z])", r"\\$"),
        (r"\\bigcup(?![a-zA-Z])", r"\\cup"),
        (r"\\Bbb(?![a-zA-Z])", r"\\mathbb"),
        (r"\\root\s?\{?(\d{1,2})\}?\s?\\of(?![a-zA-Z])", r"\\sqrt[\1]"),
        (r"\\\\\s?\[[\d.]{1,5}\s?(?:ex|em|pt|mm|cm)\]|\\cr(?![a-zA-Z])", r"\\\\"),  # ends of rows
        (r"\\hspace\*?\s?\{-?[\d.]{1,5}\s?(?:ex|em|pt|mm|cm|in)\}", " "),
        (r"\\boxed\s?(?=\{)", ""),  # a box in a box
        (rf"\\(?:text|mathrm|operatorname)\s?\{{({_FUNCTION})\}}", r"\\\1 "),
        (r"\\(?:text|mathrm|mathit|mathbf)\s?\{([ei])\}", r"{\1}"),
        (r"(\\(?:text|textrm|mathrm|mbox)\s?\{[^{}]{0,40})\^\{(\d|\\circ)\s?\}\s?\}", r"\1}^{\2}"),  # \text{ cm^{2}}
        (
            r"\\frac\s?\{\\(?:text|mathrm)\s?\{([^{}]{1,20})\}\}\s?\{\\(?:text|mathrm)\s?\{([^{}]{1,20})\}\}",
            r"\\text{ \1/\2}",
        ),
        (
            r"\\text\s?\{( euros| pounds| rupees)\} \s?(\d[\d.,]{0,30})",
            r"\2\\text{\1}",
        ),  # the sign of a currency stands before
        (r"\b([ap])\.\s?m\.", r"\\text{ \1m}"),
        (r"\\dot\s?\{?(\d)\}?(\d{0,20})\\dot\s?\{?(\d)\}?", r"\\overline{\1\2\3}"),
        (r"\{(\\overline\s?\{\d{1,40}\})\}", r"\1"),
        (r"\\overline\s?\{([A-Z]{2})\}", r"\1"),  # the length of a side
        (r"\|([A-Z]{2})\|(?=\s?=)", r"\1"),
        (r"\(([0-9A-F]{1,40})\)\s?_", r"\1_"),  # (1011)_2
        (r"(?<=\d)\{\.\}(?=\d)", "."),
    )
]


_ROOT = re.compile(r"\u221a\s?(\d+(?:\.\d+)?)", re.ASCII)
_BASE_BRACES = re.compile(r"\{([0-9A-Z]+)\}\s?_")
_SAID = re.compile(
    r"^\s*\\text\s?\{\s*(?:(?:so|thus|hence|therefore),?\s)?(?:the\s)?(?:final\s|correct\s)?(?:answer|result|total|value|solution)\s?(?:is|=|:)\s*:?\s*(?:(\})|(?=[^{}]+\}\s*$))",
    re.IGNORECASE,
)  # \text{The answer is } in a box, and \text{The answer is east}


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """``text`` without what has no meaning in an answer: sizes, spaces of other widths, dollar signs around mathematics."""
    text = _ROOT.sub(r"\\sqrt{\1}", text).translate(_TRANSLATION)
    text = text.replace(",\\! ", GROUP).replace(",\\!", GROUP).replace("{,}", GROUP)
    text = _NOTHING.sub("", text)
    for pattern, spelled in _SAME:
        text = pattern.sub(spelled, text)
    text = _BASE_BRACES.sub(r"\1_", _SAID.sub(lambda match: "" if match[1] else "\\text{", text))
    return re.sub(r" +", " ", _SPACES.sub(" ", text)).strip()


_TEXT = re.compile(r"\\(?:text|textbf|textrm|textnormal|textit|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_GROUPED = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+")
_SURELY_GROUPED = re.compile(rf"(?<![0-9.])[0-9]{{1,3}}(?:{GROUP}[0-9]{{3}})+(?![0-9])")
_LISTED = re.compile(rf"(?<=[0-9])(?: ,|, | , )(?=[0-9]{{3}}(?![0-9{GROUP}]))")
_APART = "\ue001"  # the blank of "2, 300", which keeps it from being 2,300
INTEGER = re.compile(r"-?[0-9]+")


@lru_cache(maxsize=4096)
def normalize(answer: str) -> str:
    """One spelling of an answer: equal results mean equal answers, not the reverse."""
    answer = clean(_TEXT.sub(r" \1 ", answer)).replace("\\$", "")
    answer = _LISTED.sub("," + _APART, answer)
    answer = _SURELY_GROUPED.sub(lambda match: match[0].replace(GROUP, ""), answer).replace(GROUP, ",")
    answer = re.sub(r"(?<![0-9A-Za-z.]) | (?![0-9A-Za-z])", "", answer)  # "3 1/2" is not "31/2"
    answer = re.sub(r"(?<![.,])[.,]$", "", answer)
    while answer.startswith("{") and closing_brace(answer, 1) == len(answer) - 1:
        answer = re.sub(r"(?<![.,])[.,]$", "", answer[1:-1])
    if _GROUPED.fullmatch(answer):
        answer = answer.replace(",", "")
    if INTEGER.fullmatch(answer):
        digits = answer.lstrip("-").lstrip("0") or "0"
        answer = "-" + digits if answer[0] == "-" and digits != "0" else digits
    return answer.replace(_APART, " ")


# --- boxes ------------------------------------------------------------------------------------------------------------

MAX_NESTED = 3
MAX_BOX = 5_000  # characters; of a longer one nothing is read
BOXED = re.compile(r"\\boxed[ \t]{0,3}\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a character


def closing_brace(text: str, start: int, most: int = MAX_BOX) -> int | None:
    """Where the brace closes that opened before ``start``; None if it does not within ``most`` characters."""
    depth = 1
    for match in _BRACE.finditer(text, start, start + most):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}``; None without one, or if its braces do not close (a text cut short)."""
    start = last_box(text)
    end = closing_brace(text, start) if start is not None else None
    return None if end is None else text[start:end]


def last_box(text: str) -> int | None:
    """Where the content of the last box begins; of boxes in each other the outer one counts."""
    starts = [match.end() for match in BOXED.finditer(text)]
    if not starts:
        return None
    last = starts[-1]
    for start in starts[-2 : -MAX_NESTED - 2 : -1]:
        end = closing_brace(text, start)
        if end is not None and end > starts[-1]:
            last = start
    return last
