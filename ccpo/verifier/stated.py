"""Whether a text stands by what it states: what denies, doubts, compares or takes back a statement, in words around it.

Tables of words, each with its name; the patterns are made of them. Shared by all answer types. Source: our construction.
"""

from __future__ import annotations

import re

from ccpo.verifier.spelling import BOXED, closing_brace, last_box
from ccpo.verifier.units import MAGNITUDES, UNIT_NAMES

# --- words ------------------------------------------------------------------------------------------------------------

_NOT = (
    r"not|never|no|hardly|scarcely|barely|cannot|neither|nor|without|except|unlike|\w{1,9}n['\u2019]t|(?:is|was|are|ca|do|does|did|wo)nt"
    r"|rather than|instead of|other than|opposite of|anything but|all but|far from|differs from|different from|contrary to"
)
_DOUBT = (
    r"maybe|perhaps|possibly|doubt|guess|wonder|whether|if|unless|suppose|assume|imagine|reject|rule out|eliminate|exclude|discard|refute"
    r"|wrong|false|untrue|incorrect|mistaken|impossible|may|might|could"
)
_COMPARED = (
    r"about|approximately|roughly|nearly|almost|around|close to|near|(?:less|more|fewer|greater|larger|smaller|higher|lower|bigger) than"
    r"|at least|at most|up to|over|under|above|below|beyond|exceeds?|between"
)
_CHANGED = (
    r"half|twice|thrice|double|triple|minus|negative|plus|times"
    r"|(?:third|quarter|tenth|square|cube|root|reciprocal|inverse|negative|opposite|logarithm|percent|%) of"
)
# Between such a word and what it denies.
_FILLER = (
    r"a|an|the|it|its|is|was|be|being|to|that|this|equal|equals|exactly|really|quite|simply|just|correct|right|true|final|my|our|answer|value"
    r"|result|option|choice|number|say|write|put|choose|think|believe|sure|certain|claim|convinced|necessarily|of|it['\u2019]s|so"
)
DENIAL = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|hardly|scarcely|barely|neither|nor|cannot|wrong|false|untrue|incorrect(?:ly)?|impossible"
    r"|unlikely|least|whether|wonder|doubt(?:ful)?|reject(?:ed)?|eliminate[ds]?|exclude[ds]?|rul(?:e[ds]?|ing) out|differs?|different|exceeds?"
    r"|anything but|apart from|contrary|opposite|rather than|instead of|except|unless|if|lies?|mistaken?|mislead\w*|guess\w*|maybe|perhaps"
    r"|might|could|(?:may|can) be|possibly|suppose|assum(?:e|ing)|imagine|pretend|worst|otherwise|(?:is|was|are|ca|do|does|did|wo)nt)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
"""What denies or doubts a statement, anywhere in its clause."""

SUBORDINATE = re.compile(
    r"\W*(?:when|since|because|as|although|though|while|after|given)\b.*,\s|.*,\s(?=(?:so|thus|hence|therefore|but)\b)",
    re.IGNORECASE,
)
"""A clause before the one that states something."""

ATTRIBUTED = re.compile(
    r"\b(?:he|she|they|friend|book|teacher|student|people|someone|somebody|some|many|most|others|everyone|one|you)\s+(?:\w+\s+){0,2}?"
    r"(?:says?|said|thinks?|thought|believes?|believed|claims?|claimed|choose|chose|picks?|picked|say)\b|\bat first\b|\bfirst (?:thought|guess)\b"
    r"|\b(?:I|we) (?:first |initially |originally )?thought\b",
    re.IGNORECASE,
)
"""What makes a statement somebody else's, or an earlier one."""

_RIGHT = r"right|correct|true|it\b|so|valid|possible|the (?:right |correct |final )?answer|my answer|what|quite|really"
_BAD = (
    rf"not(?:\s(?:{_RIGHT})|(?=\s*(?:[.!?]|$)))|wrong|false|incorrect|untrue|impossible|invalid|excluded|eliminated|ruled out|rejected|out"
    r"|unlikely|too|never"
)
RETRACTED = re.compile(
    r"(?:^|[.!?;\n])[\s*_(\"']{0,20}(?:(?:but|however|though|and|well|oh|so)\b[\s,]*)?(?:"
    r"no(?:pe)?\b(?=\s*(?:[,.!;:?\n]|$|\u2014|-)|\s(?:it|that|this|wait|actually|the answer)\b)"
    rf"|not\b(?=\s*(?:[.!?\n]|$)|\s(?:{_RIGHT}))|(?:wrong|false|incorrect)\b(?=\s*(?:[.!?\n]|$))"
    r"|(?:wait|scratch|oops|sorry|just kidding|actually|correction|hmm+|on (?:second thought|reflection)|I (?:mean|meant)|or\b|my mistake"
    r"|I (?:take (?:it|that) back|made (?:a|an) (?:mistake|error)|(?:was|am) (?:wrong|mistaken)))\b"
    rf"|(?:that|this|which|it)(?:['\u2019]s|\s(?:is|was|must be|cannot be|can be|can['\u2019]t be))?\s(?:clearly\s|just\s|simply\s|a\s)?"
    rf"(?:not\s(?:{_RIGHT})|(?:wrong|false|incorrect|lie|mistake)\b(?!\s(?:that|to)\b))"
    rf"|(?:that|this|it)\s(?:isn|wasn|can)['\u2019]?(?:t|not)\b(?=\s(?:be\s)?(?:{_RIGHT})|\s*[.!,\n]|$))",
    re.IGNORECASE,
)
"""What takes back a statement, at the beginning of a sentence after it."""

TAKEN_BACK = re.compile(
    r"[\s,)*\]\"'.$\\-]*(?:(?:but|and)\s)?(?:no\b|not\s*(?:[.!?]|$)|(?:or\s)?(?:maybe|perhaps|possibly|rather|actually|wait|sorry)\b|or\b|I (?:mean|guess)\b"
    rf"|I(?:['\u2019]m| am) not\b|(?:which|that) (?:is|was|would be) (?:\w+ )?(?:{_BAD})\b"
    rf"|(?:is|was|isn['\u2019]t|wasn['\u2019]t|can|cannot|can['\u2019]t|could|should|may|might|seems|looks)\b(?:\s\w+){{0,2}}?\s(?:{_BAD}|guess)\b"
    rf"|(?:isn|wasn|can)['\u2019]t\b|cannot\b|\(?(?:wrong|false|incorrect|not (?:{_RIGHT}))\b)",
    re.IGNORECASE,
)
"""The same, directly after the statement in its own sentence."""

# --- the text ---------------------------------------------------------------------------------------------------------

_PREPARED = [
    (re.compile(pattern), spelled)
    for pattern, spelled in (
        (r"<\|[a-z_]{1,20}\|>|</?s>", ""),  # tokens that end a turn, where a server did not leave them out
        (r"</?(?:b|i|u|em|strong|code|span|center)>", ""),
        (r"<(?:answer|final_answer|final)>", "\nAnswer: "),
        (r"</[a-z_]{1,20}>|<[a-z_]{3,20}>", "\n"),
        (r"<<[^<>\n]{0,200}>>", ""),  # a calculator's notes in GSM8K
        ("[\u2705\u2713\u2714\u2611\u2b50\u2728\U0001f389\U0001f3af\U0001f44d\U0001f600-\U0001f60a\ufe0f\u2b05\u27a1\u2b50]", ""),
        ("[\u2234\u2192\u21d2]", ": "),
        (r"(?<![-=<])(?:->|=>|==)(?=\s?[\w$\\(*])", ": "),
        ("\u3002", ". "),
    )
]  # fmt: skip
_FULLWIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_BLANK = re.compile(r"\s{9,}")


def prepared(text: str) -> str:
    """``text`` without markup around its words; what a model thought before ``</think>`` is no answer."""
    thought, ended, rest = text.rpartition("</think>")
    text = rest if ended and rest.strip() else text
    text = without_blanks(text)
    for pattern, spelled in _PREPARED:
        text = pattern.sub(spelled, text)
    return without_blanks(text.translate(_FULLWIDTH))


def without_blanks(text: str) -> str:
    """``text`` without long runs of blanks, which many patterns would read again and again."""
    return _BLANK.sub(lambda run: "\n\n" if "\n" in run.group() else "  ", text)


# --- boxes ------------------------------------------------------------------------------------------------------------

AROUND = 200  # characters before and after a box that are looked at for words
_ENDS_WITH = re.compile(
    rf"(?:\b(?:{_NOT}|{_DOUBT}|{_COMPARED}|{_CHANGED})|%\sof)(?:\s+(?:{_FILLER})\b)*[\s:$*(\\\[]*$"
    r"|(?:^|[.\n]\s*)(?:wrong|incorrect|false)\s*:[\s$*]*$"
    r"|\b(?:put|write|place|enclose|box)\b[^.!?\n]{0,80}\b(?:in|inside|within)\s[\s$]*$"
    r"|(?:^|\n)\s*%[^\n]*$",  # a comment
    re.IGNORECASE,
)
_OPERATED = re.compile(
    r"(?:(?<!\n)[-+/^<>_\u2260\u2248\u2264\u2265\u221a\u00ac\u00b1~!]|[!/]="
    r"|\\(?:times|cdot|div|pm|mp|neg|lnot|not|neq?|leq?|geq?|lt|gt|approx|sim|log|ln|sin|cos|tan|exp)"
    r"|\\sqrt(?:\[[^\]]*\])?|\\frac\s?\{[^{}]*\}|(?<=[\d)}])\s?\*|(?<![A-Za-z\\])[A-Za-z]|\d)\s*$"
)
_LINE_ENDED = re.compile(r"(?:(?<![A-Za-z\\])[A-Za-z]{1,40}|[\d!])[ \t$]*\n\s*$")
"""A line that ends without an operator: what comes next is no part of it, unless a formula is open."""
_FORMULA = re.compile(r"\$\$|\\\[|\\\]|\\begin\b|\\end\b")
_SPACED_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z]\s+$")  # "I \boxed" is no product
_ARGUMENT = re.compile(r"(?:\\([a-zA-Z]+)(?:\[[^\]]*\])?\s?|[\^_])\{[\s$]*$|\\frac\s?\{[^{}]*\}\s?\{\s*$")
_HARMLESS = frozenset(
    "text textbf textrm mathbf mathrm bm boldsymbol displaystyle large Large huge color fbox underline".split()
)
_GOES_ON = re.compile(
    r"[\s$]*(?:[\^_]|\\(?:times|cdot|div|pm|pi|infty|sqrt|frac|cup|vee|lor)(?![a-zA-Z])|[-+*/](?=\s?[\d\\(])|!(?=\s?[\d$+*/=\\^-])|\\?%\s?\d)"
    r"|[ \t$]*\d"
    r"|[\s$*)\\]*(?:,\s*)?and\s[\s$*]*(?:\\boxed|[-\d])"
    r"|[\s$*)\\]*(?:,|;|/|\bor\b|\band\b)\s*[(\[]?[A-E](?![\w'])"
    r"|[\s$*)\\]*to\s[\s$]*(?:\\boxed|[-\d])"
    r"|[\s$*\])}\\]*\?"
    r"|[\s$*)]*(?:\\text\s?\{\s*)?(?:squared|cubed|factorial|times|plus|minus|over|ish|(?:of|out of)\s\d)\b",
    re.IGNORECASE,
)  # fmt: skip
_WORD_AFTER = re.compile(r"[\s$*)]*(?:\\text\s?\{\s*)?([A-Za-z]+)")
_JOINED = re.compile(
    r"\}[\s$*.)\\]*(?:,|;|/|=|-|\+|<|>|\\cdot|\\times|\bto\b|\bor\b|\band\b|\beither\b|\bmaybe\b|\bperhaps\b|,\s*or\b|,\s*and\b)?[\s$*(\\]*$", re.IGNORECASE
)  # fmt: skip
_LETTER_BEFORE = re.compile(r"(?<![\w'])[A-E][)\]]?\s*(?:,|/|\bor\b|\band\b)\s*[\s$*(]*$")
_LATER = re.compile(r"\banswer\b[^.!?\n:=\d]{0,40}?(?:\bis\b|=|:)\s*((?:[^.!?\n]|\.\d){1,200})", re.IGNORECASE)


def box_is_stated(text: str) -> bool:
    """Whether the last box stands for itself: not denied in words or taken back, not a part of an expression, and not one of several side by
    side."""
    inside = last_box(text)
    end = None if inside is None else closing_brace(text, inside)
    if end is None:
        return False
    starts = [found for found in BOXED.finditer(text) if found.end() <= inside]
    start, content = starts[-1].start(), text[inside:end]
    before, after = text[max(0, start - AROUND) : start], text[end + 1 : end + AROUND]
    if _ENDS_WITH.search(before) or _LETTER_BEFORE.search(before) or _is_operand(before):
        return False
    if _GOES_ON.match(after) or TAKEN_BACK.match(after) or _is_scaled(after):
        return False
    if re.match(r"\s*\d", after) and _in_formula(before):
        return False
    if RETRACTED.search(text, end + 1) or _contradicted(content, text[end + 1 :]):
        return False
    if len(starts) > 1:
        previous = closing_brace(text, starts[-2].end())
        if previous is not None and start - previous < 40 and not _alike(text[starts[-2].end() : previous], content):
            return _JOINED.fullmatch(text[previous:start]) is None
    return True


def _alike(a: str, b: str) -> bool:
    """\\boxed{15} = \\boxed{15.0}."""
    try:
        return a.strip() == b.strip() or float(a) == float(b)
    except ValueError:
        return False


def _is_operand(before: str) -> bool:
    before = before.rstrip("$ ") if before.rstrip().endswith("$") else before
    if _OPERATED.search(before) and not _SPACED_LETTER.search(before):
        return _in_formula(before) or not _LINE_ENDED.search(before)
    found = _ARGUMENT.search(before)
    return found is not None and found[1] not in _HARMLESS


def _in_formula(before: str) -> bool:
    """Whether a displayed formula is open. One dollar is none: it may be money."""
    opened = False
    for mark in _FORMULA.findall(before):
        opened = not opened if mark == "$$" else mark in ("\\[", "\\begin")
    return opened


def _is_scaled(after: str) -> bool:
    """A magnitude after the box, or letters glued to it that are no unit: \\boxed{72}k."""
    found = _WORD_AFTER.match(after)
    if not found:
        return False
    word, glued = found[1], found.start(1) == 0
    return word in MAGNITUDES or word.casefold() in MAGNITUDES or (glued and word.casefold() not in UNIT_NAMES)


def _contradicted(content: str, after: str) -> bool:
    """Whether another answer is stated after the box."""
    plain = re.sub(r"[^0-9A-Za-z.]", "", content)
    for found in list(_LATER.finditer(after))[:3]:
        said = re.sub(r"[^0-9A-Za-z.]", "", found[1])
        if plain not in said and (re.search(r"\d", said) or re.fullmatch(r"(?:option|choice)?[A-E]", said)):
            return True
    return False
