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
        (r"\r\n?|[\x0b\x0c\x85\u2028\u2029]|<(?:br|hr)\s?/?>", "\n"),
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
    r"|\b(?:divided by|multiplied by|mod(?:ulo)?)[\s:$*(\\\[]*$"
    r"|(?:^|[.\n]\s*)(?:wrong|incorrect|false)\s*:[\s$*]*$"
    r"|\b(?:put|write|place|enclose|box)\b[^.!?\n]{0,80}\b(?:in|inside|within)\s[\s$]*$"
    r"|(?:^|\n)\s*%[^\n]*$",  # a comment
    re.IGNORECASE,
)
_OPENED = re.compile(r"(?:\\(?:\\(?:\[[\d.]{1,5}[a-z]{2}\])?|[(\[,;:!]|q?quad(?![a-zA-Z]))|[\s$&(])*$")
"""What may stand between an operator and the box that it is applied to: ends of rows, blanks, the beginning of a formula."""
_OPERATOR = re.compile(
    r"(?:[-+/^<_\u2260\u2248\u2264\u2265\u221a\u00ac\u00b1~]|(?<![-=])>|[!/]="
    r"|\\(?:times|cdot|div|pm|mp|neg|lnot|not|neq?|leq?|geq?|lt|gt|approx|sim|log|ln|sin|cos|tan|exp)"
    r"|\\sqrt(?:\[[^\]]*\])?|\\frac\s?\{[^{}]*\}|(?<=[\d)}])\s?\*)$"
)
_ITEM = re.compile(r"(?:^|\n)[ \t]*[-+*>]$")  # of a list, or a quotation; a blank follows
_RULE = re.compile(r"^[ \t]*([-_*=~])(?:[ \t]*\1){2,}[ \t]*$", re.MULTILINE)  # across the page
_FACTOR = re.compile(r"(?:(?<![A-Za-z\\])[A-Za-z]|[\d!])\s*$")
_LINE_ENDED = re.compile(r"(?:(?<![A-Za-z\\])[A-Za-z]{1,40}|[\d!])(?:[^\S\n]|\$)*\n\s*$")
"""A line that ends without an operator: what comes next is no part of it, unless a formula is open."""
_FORMULA = re.compile(r"\\\\|\$\$|\\[(\[\])]|\\begin\b|\\end\b")
_SPACED_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z]\s+$")  # "I \boxed" is no product
_ARGUMENT = re.compile(r"(?:\\([a-zA-Z]+)(?:\[[^\]]*\])?\s?|[\^_])\{[\s$]*$|\\frac\s?\{[^{}]*\}\s?\{\s*$")
_HARMLESS = frozenset(
    "text textbf textrm mathbf mathrm bm boldsymbol displaystyle large Large huge color fbox underline".split()
)
_GOES_ON = re.compile(
    r"(?:[\s$&]|\\\\)*(?:[\^_]|\\(?:times|cdot|div|pm|pi|infty|sqrt|frac|cup|vee|lor)(?![a-zA-Z])|[-+*/](?=\s?[\d\\(])|!(?=\s?[\d$+*/=\\^-])|\\?%\s?\d)"
    r"|(?:[^\S\n]|[$~]|\\[,;:! ])*\d|\{?[.,]\}?\d"
    r"|[\s$*)\\]*(?:,\s*)?and\s[\s$*]*(?:\\boxed|[-\d])"
    r"|[\s$*)\\]*(?:,|;|/|\bor\b|\band\b)\s*[(\[]?[A-E](?![\w'])"
    r"|[\s$*)\\]*to\s[\s$]*(?:\\boxed|[-\d])"
    r"|[\s$*\])}\\]*\?"
    r"|[\s$*)]*(?:\\text\s?\{\s*)?(?:squared|cubed|factorial|times|plus|minus|over|ish|(?:of|out of)\s\d)\b",
    re.IGNORECASE,
)  # fmt: skip
_WORD_AFTER = re.compile(r"[\s$*)]*(?:\\text\s?\{\s*)?([A-Za-z]+)")
_JOINED = re.compile(
    r"\}[\s$*.)\\]*(?:,|;|/|=|-|\+|<|>|\||&|\\cdot|\\times|\\q?quad|\\lor|\\vee|\\text\s?\{\s?(?:or|and)\s?\}|\bto\b|\bor\b|\band\b|\beither\b|\bmaybe\b"
    r"|\bperhaps\b|,\s*or\b|,\s*and\b)?[\s$*(\\]*$",
    re.IGNORECASE,
)
_LETTER_BEFORE = re.compile(r"(?<![\w'])[A-E][)\]]?\s*(?:,|/|\bor\b|\band\b)\s*[\s$*(]*$")
_NUMBER = r"(-?\d[\d,]*(?:\.\d+)?)"
_OTHER_BEFORE = re.compile(rf"(?<![\w.,/]){_NUMBER}[\s$*),]{{0,9}}\bor[\s$*(\\]*$", re.IGNORECASE)
_TIMES = re.compile(rf"(?<![\w.,]){_NUMBER}\s(?:more\s)?times(?=[^\S\n]*\n[\s$*(\\\[]*$)", re.IGNORECASE)
_AS_NOUN = re.compile(
    r"\b(left)[ -]over\b(?=[^\S\n]*(?:\n|[:=])|\s+(?:is|was|are|were|equals|will be)\b)|\bthan\snot\b(?=[^\S\n]*\n)",
    re.IGNORECASE,
)
"""Words that compare or deny, where they do neither."""
_OTHER_AFTER = re.compile(
    rf"\n[\s$*#\\(\[]{{0,20}}{_NUMBER}(?:[\s$*.)\]\\]{{0,9}}(?:\n|$)|[\s$*)]{{1,9}}is\s(?:the\s)?(?:(?:final|right|correct|true|real|actual)\s)?"
    r"(?:answer|right|correct)\b)",
    re.IGNORECASE,
)
"""Another number that is a line of its own, or is said to be the answer."""
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
    before = _counted(_AS_NOUN.sub(r"\1", before), content)
    in_formula = _in_formula(text[:start], text[end + 1 :])
    if _ENDS_WITH.search(before) or _LETTER_BEFORE.search(before) or _is_operand(before, after, in_formula):
        return False
    if (other := _OTHER_BEFORE.search(before)) and _differs(other[1], content):
        return False
    if _GOES_ON.match(after) or TAKEN_BACK.match(after) or _is_scaled(after):
        return False
    if in_formula and re.match(r"\s*\d", after):
        return False
    if RETRACTED.search(text, end + 1) or _contradicted(content, text[end + 1 :]):
        return False
    if len(starts) > 1:
        previous = closing_brace(text, starts[-2].end())
        if previous is not None and start - previous < 40 and not _alike(text[starts[-2].end() : previous], content):
            return _JOINED.fullmatch(text[previous:start]) is None
    return True


def _counted(before: str, content: str) -> str:
    """``before`` without the last word of "= 48 times", line end, \\boxed{48}: it says how often, and multiplies nothing."""
    found = _TIMES.search(before)
    return before if not found or _differs(found[1], content) else before[: found.end(1)] + before[found.end() :]


def _differs(number: str, content: str) -> bool:
    """Whether the box holds another number. What is no number in digits may be the same one."""
    plain = re.sub(r"[\s$,\\]", "", content)
    try:
        return float(number.replace(",", "")) != float(plain)
    except ValueError:
        return False


def _alike(a: str, b: str) -> bool:
    """\\boxed{15} = \\boxed{15.0}."""
    try:
        return a.strip() == b.strip() or float(a) == float(b)
    except ValueError:
        return False


def _is_operand(before: str, after: str, in_formula: bool) -> bool:
    before = _RULE.sub("", before)
    opened = _OPENED.search(before).start()
    left, between = before[:opened], before[opened:]
    item = between[:1].isspace() and _ITEM.search(left) and (not in_formula or re.search(r"\$|\\[(\[]", between))
    if _OPERATOR.search(left) and not item and (in_formula or not _is_emphasis(left, after)):
        return True
    if own := before.rstrip().endswith("$"):  # the box is in a formula of its own
        before = before.rstrip("$ ")
    if _FACTOR.search(before) and not _SPACED_LETTER.search(before):
        return (in_formula and not own) or not _LINE_ENDED.search(before)
    found = _ARGUMENT.search(before)
    return found is not None and found[1] not in _HARMLESS


def _is_emphasis(left: str, after: str) -> bool:
    """*\\boxed{48}* on a line of its own."""
    return left.endswith("\n*") and after.startswith("*")


def _in_formula(before: str, after: str) -> bool:
    """Whether a formula is open that may have several lines. Dollars are money where none closes them: one behind the box, ``$$`` anywhere."""
    opened = {"$$": 0, "\\(": 0, "\\[": 0, "\\begin": 0}
    for mark in _FORMULA.findall(before):
        if mark == "$$":
            opened[mark] = 1 - opened[mark]
        elif mark in opened:
            opened[mark] = opened[mark] + 1 if mark == "\\begin" else 1
        elif mark != "\\\\":
            begun = {"\\)": "\\(", "\\]": "\\[", "\\end": "\\begin"}[mark]
            opened[begun] = max(0, opened[begun] - 1)
    if opened.pop("$$") and "$$" in after:
        return True
    line = before.rpartition("\n")[2]
    return any(opened.values()) or ("$" not in line and re.match(r"[^\S\n]*[.,]?\$(?![\d$])", after) is not None)


def _is_scaled(after: str) -> bool:
    """A magnitude after the box, or letters glued to it that are no unit: \\boxed{72}k."""
    found = _WORD_AFTER.match(after)
    if not found:
        return False
    word, glued = found[1], found.start(1) == 0
    return word in MAGNITUDES or word.casefold() in MAGNITUDES or (glued and word.casefold() not in UNIT_NAMES)


def _contradicted(content: str, after: str) -> bool:
    """Whether another answer is stated after the box."""
    if any(_differs(found[1], content) for found in _OTHER_AFTER.finditer(after)):
        return True
    plain = re.sub(r"[^0-9A-Za-z.]", "", content)
    for found in list(_LATER.finditer(after))[:3]:
        said = re.sub(r"[^0-9A-Za-z.]", "", found[1])
        if plain not in said and (re.search(r"\d", said) or re.fullmatch(r"(?:option|choice)?[A-E]", said)):
            return True
    return False
