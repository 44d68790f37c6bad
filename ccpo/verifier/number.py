"""``number``: the final number of a text. The last box, else the line after the last ``####``, else what the last "answer is" states, else
the last number of the last sentence that has one.

Each is read as a whole or not at all: a number that is denied, asked, or one of several is none. Source: our construction.
"""

from __future__ import annotations

import re
from fractions import Fraction

from ccpo.verifier.equality import exact, settled
from ccpo.verifier.latex import MAX_ANSWER, Tree, UnreadableError, parse, tokens
from ccpo.verifier.spelling import BOXED, box_is_stated, clean, last_boxed
from ccpo.verifier.units import CHANGING

MAX_SENTENCE = 2_000  # characters; of a longer one nothing is read
MAX_STATEMENTS = 20  # the last ones of a text

# What denies or doubts a statement, anywhere in its sentence.
DENIAL = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|hardly|scarcely|barely|neither|nor|cannot|wrong|false|untrue|incorrect(?:ly)?|impossible"
    r"|unlikely|least|whether|wonder|doubt(?:ful)?|reject(?:ed)?|eliminate[ds]?|exclude[ds]?|rul(?:e[ds]?|ing) out|differs?|different|exceeds?"
    r"|anything but|apart from|contrary|opposite|rather than|instead of|except|unless|if|lies?|mistaken?|mislead\w*|guess\w*|maybe|perhaps"
    r"|might|could)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
# What takes back a statement, at the beginning of a sentence after it.
RETRACTED = re.compile(
    r"(?:^|[.!?;\n])[\s*_(\"']*(?:(?:no|wait|not|wrong|false|incorrect|scratch|oops|sorry|just kidding|actually|correction|hmm)\b"
    r"|(?:that|this|which|it)\s(?:is|was|['\u2019]s)?\s?(?:is\s)?(?:not|wrong|false|incorrect|a lie|a mistake)\b"
    r"|(?:that|this|it)\s(?:isn|wasn|can)['\u2019]?(?:t|not)\b)",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"\banswer\b(?P<middle>[^.!?\n:=\d]{0,60}?)(?:\b(?:is|be|equals|was)\b|=|:)", re.IGNORECASE)
_CONTRAST = re.compile(r"^[\s:]*not\s(?:[^.!?\n]|\.\d){1,40}?,?\sbut\s(?:rather\s)?", re.IGNORECASE)
# Before "that the answer is": who says so, not who denies it.
_SAYS = re.compile(
    r"(?:\b(?:we|i|you|one|it|this|which|so|thus|hence|therefore|then|and|can|may|now|finally|conclude|believe|think|know|see|find|get|say|means|shows?"
    r"|tells|us|me|follows|gives|implies|confirms|proves|clear|is|am|sure|certain|confident|obvious|the|result|calculation|a|fact|from|above)\b[\s,:]*)*$",
    re.IGNORECASE,
)
_PARENTHESIS = re.compile(r"(?<=\s)\((?=[^()]*[A-Za-z]{2})[^()\\]*\)")
_ORDER = re.compile(
    r"\W*(?:(?:please|now|then)\s)?(?:calculate|compute|find|determine|evaluate|express|give|write|what|how|which|when|who|solve|state|tell"
    r"|work out|figure out|help|round|simplify|estimate|assume|suppose|consider|let|if)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(r"\b(?:how|what) (?:many|much|long|far|old|fraction|percent\w*)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?:[.?]|!(?!\s*[-+*/^=\d\\]))(?=[\s\"')\]]|$)|\n+|;")
_REASON = re.compile(r",\s+(?=[A-Za-z])|\b(?:because|since|as|so|which|where|when|therefore)\b|\u2014", re.IGNORECASE)
_LEAD = re.compile(
    r"[\s:=,*_]*(?:(?:therefore|thus|simply|just|exactly|equal to|equals|a total of|indeed|then|be|is|the number|now)[\s:,]+)*",
    re.IGNORECASE,
)
# Words after a number and its unit that lead on to other things.
_LEADS_ON = frozenset(
    "in for of per on at from with during this that these those each every total altogether left remaining who he she they it we you i is are was "
    "were will would has have had need needs cost costs after before a an the his her their its there here if and".split()
)
_BEFORE_ANOTHER = frozenset("from above below under beyond outside near past exceeds exceed surpasses".split())
_JOINING = frozenset("or to plus minus times over and than divided multiplied between".split())
_MARKUP = re.compile(
    r"</?[a-z_]+>|\*\*|__|`|\"|(?<=\s)[*_](?=\S)|(?<=\S)[*_](?=[\s.,!?]|$)|^[#\s*]+\s(?=\S)|^-\s(?=[^\d\s$])"
)


def read_number(text: str) -> Fraction | None:
    """The final number of ``text``; None if there is none that can be read."""
    try:
        return _read_number(text)
    except UnreadableError:
        return None


def number_of(content: str) -> Fraction:
    """The one number that ``content`` (of a box, or a truth) is. Raises UnreadableError."""
    if len(content) > MAX_ANSWER:
        raise UnreadableError("too long")
    return _literal(settled(parse(tokens(clean(content), grouped=True))))


def _read_number(text: str) -> Fraction | None:
    if BOXED.search(text):
        boxed = last_boxed(text)
        return None if boxed is None or not box_is_stated(text) else number_of(boxed)
    _, marker, tail = text.rpartition("####")
    if marker:
        lines = tail.strip().splitlines()
        return _stated(lines[0]) if lines else None
    for found in list(_ANSWER.finditer(text))[: -MAX_STATEMENTS - 1 : -1]:
        rest = text[found.end() :][:MAX_SENTENCE].lstrip(" *_:$\n")
        clause = rest[: end.start()] if (end := _SENTENCE.search(rest)) else rest
        if not any(char.isdigit() for char in clause):
            continue
        before = text[_sentence_start(text, found.start()) : found.start()]
        embedded = re.search(r"(.*)\bthat\b(?!.*\bthat\b)", before.rpartition(",")[2])
        if (
            (embedded and not _SAYS.match(embedded[1].lstrip()))
            or DENIAL.search(before)
            or DENIAL.search(found["middle"])
            or RETRACTED.search(text, found.end())
            or _asked(rest, clause)
        ):
            return None
        return _stated(clause)
    return _last_number(text)


def _asked(rest: str, clause: str) -> bool:
    return rest[len(clause) : len(clause) + 1] == "?"


def _sentence_start(text: str, at: int) -> int:
    return max((end.end() for end in _SENTENCE.finditer(text, max(0, at - 500), at)), default=max(0, at - 500))


def _stated(clause: str) -> Fraction:
    """The number that a clause begins with. Raises UnreadableError."""
    clause = _CONTRAST.sub("", _plain(clause))
    if clause.rstrip().endswith("}") and clause.count("}") > clause.count("{"):  # of JSON
        clause = clause.rstrip()[:-1]
    clause = clause[_LEAD.match(clause).end() :]
    reason = _REASON.search(clause)
    if reason and any(char.isdigit() for char in clause[: reason.start()]):
        clause = clause[: reason.start()]
    return _leading(tokens(clean(clause), prose=True))


_GLUED = re.compile(r"(\d)[ac-fijn-rt-zAC-JLN-Z](?![A-Za-z\d+-])")  # 72x is not 72; of 72 m and 72k the letter is read
_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=[\d$(])")


def _plain(clause: str) -> str:
    """Without markup and remarks in brackets; 9 x 8 as a product."""
    without = _PARENTHESIS.sub(lambda match: match.group() if DENIAL.search(match.group()) else "", clause)
    return _TIMES.sub(r"\\times ", _GLUED.sub(r"\1 \\glued ", _MARKUP.sub("", without)))


def _leading(found: list[tuple[str, object]]) -> Fraction:
    """The number of a clause's tokens, up to the words that lead on to other things."""
    kinds = [kind for kind, _ in found]
    first = kinds.index("num") if "num" in kinds else len(kinds)
    stop = len(found)
    for at in range(first + 1, len(found)):
        if (
            found[at][0] == "word"
            and _word(found[at]) in _LEADS_ON
            and (at + 1 == len(found) or found[at + 1][0] != "rel")
        ):
            stop = at
            break
    rest = found[stop:]
    if any(kind == "rel" for kind, _ in rest):
        raise UnreadableError("a relation further on")
    if DENIAL.search(" ".join(_word(token) for token in rest if token[0] == "word")) or any(
        token[0] == "word"
        and _word(token) in CHANGING - {"to", "by", "up", "around", "about", "i", "through", "between"}
        for token in rest[1:4]
        if rest[0] == ("word", "and")
    ):
        raise UnreadableError("denied")
    for word, after in zip(rest, rest[1:], strict=False):
        if word[0] == "word" and _word(word) in _JOINING and after[0] in ("num", "\\$", "-"):
            raise UnreadableError("one of several numbers")
    return _literal(settled(parse(found[:stop])))


def _word(token: tuple[str, object]) -> str:
    return str(token[1]).casefold().rstrip(".")


def _last_number(text: str) -> Fraction | None:
    """The last number of the last sentence that has one, with the equation that it ends. None after a question or an order: who repeats what
    was asked has not answered."""
    start, sentence = 0, None
    for end in [*_SENTENCE.finditer(text), None]:
        stop = len(text) if end is None else end.start()
        if (
            (end is not None and end.group() == "?")
            or _ORDER.match(text, start, stop)
            or _ASKS.search(text, start, stop)
        ):
            sentence = None
        elif any(char.isdigit() for char in text[start:stop]):
            sentence = (start, stop)
        start = stop if end is None else end.end()
    if sentence is None or sentence[1] - sentence[0] > MAX_SENTENCE:
        return None
    start, stop = sentence
    words = _plain(text[start:stop])
    if DENIAL.search(words) or RETRACTED.search(text, stop):
        return None
    found = tokens(clean(words), prose=True)
    last = max((at for at, token in enumerate(found) if token[0] == "num"), default=None)
    if last is None:
        return None
    at = last
    while at > 0 and (
        found[at - 1][0] not in ("word", ",", ":", ".") or (found[at - 1][0] == "word" and found[at][0] == "rel")
    ):
        if found[at - 1][0] == "num" and found[at][0] == "num":
            break
        at -= 1
        if found[at][0] == "word" and at > 0 and found[at - 1][0] == "word":
            break
    if at > 0 and found[at - 1][0] == "word":
        word, before = _word(found[at - 1]), found[at - 2][0] if at > 1 else ""
        if word in (CHANGING | _BEFORE_ANOTHER) - {"to", "around"} or (word in ("to", "and") and before == "num"):
            return None
    if at > 1 and found[at - 1][0] == "," and any(kind == "num" for kind, _ in found[max(0, at - 4) : at]):
        return None
    if at < last and found[at] == ("rel", "="):
        at += 1
    return _leading(found[at:])


def _literal(tree: Tree) -> Fraction:
    """The value of a number that is written out: an integer, a decimal, a fraction, a mixed number, 2.03 x 10^2. Raises UnreadableError for
    arithmetic that is left to do."""
    if tree[0] == "named":
        tree = tree[2]
    if tree[0] != "value" or not _written_out(tree[1]):
        raise UnreadableError("not one number")
    value = exact(tree[1])
    if value is None:
        raise UnreadableError("not one number")
    return value


def _written_out(number: Tree) -> bool:
    kind = number[0]
    if kind == "neg":
        return _written_out(number[1])
    if kind == "div":
        return _written_out(number[1]) and number[2][0] == "num"
    if kind == "mul":  # scientific
        return number[1][0] == "num" and number[2][0] == "pow" and number[2][1] == ("num", Fraction(10))
    return kind == "num"
