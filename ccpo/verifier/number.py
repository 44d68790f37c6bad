"""``number``: the final number of a text. The last box, else the line after the last ``####``, else what the last "answer is" states, else
the last number of the last sentence that has one.

Each is read as a whole or not at all: a number that is denied, asked, or one of several is none. Source: our construction.
"""

from __future__ import annotations

import re
from fractions import Fraction

from ccpo.verifier.equality import exact, settled
from ccpo.verifier.latex import MAX_ANSWER, Tree, UnreadableError, parse, tokens
from ccpo.verifier.spelling import BOXED, clean, last_boxed
from ccpo.verifier.stated import ATTRIBUTED, DENIAL, RETRACTED, SUBORDINATE, TAKEN_BACK, box_is_stated
from ccpo.verifier.units import CHANGING, MAGNITUDES, UNIT_NAMES

MAX_SENTENCE = 2_000  # characters; of a longer one nothing is read
MAX_END = 20_000  # characters at the end of a text, where its last number is looked for
MAX_STATEMENTS = 20  # the last ones of a text

_ANSWER = re.compile(
    r"(?:\b|(?<=final_))answer\b(?P<middle>[^.!?\n:=\d]{0,60}?)(?:\b(?:is|be|equals|was)\b|=|:)", re.IGNORECASE
)
_CONTRAST = re.compile(r"^[\s:]*not\s(?:[^.!?\n]|\.\d){1,40}?,?\sbut\s(?:rather\s)?", re.IGNORECASE)
# Before "that the answer is": who says so, not who denies it.
_SAYS = re.compile(
    r"(?:\b(?:we|i|you|one|it|this|which|so|thus|hence|therefore|then|and|can|may|now|finally|conclude|believe|think|know|see|find|get|say|means|shows?"
    r"|tells|us|me|follows|gives|implies|confirms|proves|clear|is|am|sure|certain|confident|obvious|the|result|calculation|a|fact|from|above)\b[\s,:]*)*$",
    re.IGNORECASE,
)
# Before "answer" where something else of it is stated: "twice the answer is", "2 * answer =".
_OF_THE_ANSWER = re.compile(
    r"(?:\b(?:of|in|half|twice|thrice|double|triple|negative|minus|plus|times|over|by|than|with|is|equals|wrong|another|other)"
    r"|[\w)]\s*[-+*/^=]|-)\s*(?:(?:the|our|my|your|this|that|final|correct|right)\s+)*$",
    re.IGNORECASE,
)
_OPERATION = re.compile(
    r"[-+/^]|\w\s*\*\s*\w|['\u2019]s\b|\b(?:plus|minus|times|divided|multiplied|modulo|mod|double|square|half)\b",
    re.IGNORECASE,
)
_PARENTHESIS = re.compile(r"(?<=\s)\((?=[^()]*[A-Za-z]{2})[^()\\]*\)")
_ORDER = re.compile(
    r"\W*(?:(?:please|now|then)\s)?(?:(?:calculate|compute|find|determine|evaluate|express|give|write|what|how|solve|state|tell"
    r"|work out|figure out|help|round|simplify|estimate|assume|suppose|consider|let)\b|(?:if|when|who)\b(?![^.?!\n]*,))",
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
    "were will would has have had need needs cost costs after before a an the his her their its there here if and more "
    "fewer less do does did can without".split()
)
_BEFORE_ANOTHER = frozenset("from above below under beyond outside near past exceeds exceed surpasses".split())
_JOINING = frozenset("or to plus minus times over and than without divided multiplied between".split())
_MARKUP = re.compile(
    r"\*\*|__|`|\"|(?:^|(?<=\s))[*_](?=\S)|(?<=\S)[*_](?=[\s.,!?]|$)|^[#\s*]+\s(?=\S)|^-\s(?=[^\d\s$])"
)


_NO_NOUN = CHANGING | MAGNITUDES.keys() | {"and", "is", "are", "was"}
_SENTENCE_BEGINS = re.compile(
    r"(?:that\s)?(?:[A-Z][a-z]+|[Tt]he|[Ss]?[Hh]e|[Tt]hey|[Ii]t|[Tt]here|I|[Ww]e)\s(?:\w+\s){0,8}?(?:\w+(?:ed|s)|sold|is|are|has|have|was|were)\s"
)
_GLUED = UNIT_NAMES | MAGNITUDES.keys() | {"e", "E"}


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
        if not lines or len(lines[0]) > MAX_SENTENCE:
            return None
        found = _ANSWER.search(lines[0])  # #### Answer: 72
        return _stated(lines[0][found.end() if found and not DENIAL.search(lines[0][: found.end()]) else 0 :])
    for found in list(_ANSWER.finditer(text))[: -MAX_STATEMENTS - 1 : -1]:
        rest = text[found.end() :][:MAX_SENTENCE].lstrip(" *_:$\n")
        clause = rest[: end.start()] if (end := _SENTENCE.search(rest)) else rest
        if not any(char.isdigit() for char in clause):
            continue
        before = text[_sentence_start(text, found.start()) : found.start()]
        said = SUBORDINATE.sub("", before)
        embedded = re.search(r"(.*)\bthat\b(?!.*\bthat\b)", said)
        if (
            (embedded and not _SAYS.match(embedded[1].lstrip()))
            or any(pattern.search(said) for pattern in (DENIAL, ATTRIBUTED, _OF_THE_ANSWER))
            or DENIAL.search(found.group())
            or _OPERATION.search(found["middle"].strip("*_ "))
            or RETRACTED.search(text, found.end())
            or _asked(rest, clause)
            or _NEXT_NUMBER.match(rest, len(clause))
        ):
            return None
        return _stated(clause)
    return _last_number(text)


_NEXT_NUMBER = re.compile(r"\s*;\s*\$?\d|\s*\n[\s*$-]*[\d.,]+[\s*$]*(?:\n|$)")  # the next one of a list


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
    if found := re.search(r"\d[\d.,]*(?:\s*%)?", clause):
        if (
            TAKEN_BACK.match(clause, found.end())
            or re.match(r"\s*(?:is|was)\b", clause[found.end() :])
            or re.match(r"\s*,?\s*but\s+(?!not\b)", clause[found.end() :])
        ):
            raise UnreadableError("taken back")
    if _SENTENCE_BEGINS.match(clause):  # "Answer: She sold 72 clips."
        value = _last_number(clause)
        if value is None:
            raise UnreadableError("no number is stated")
        return value
    reason = _REASON.search(clause)
    if reason and any(char.isdigit() for char in clause[: reason.start()]):
        clause = clause[: reason.start()]
    return _leading(tokens(clean(clause), prose=True))


_SENTENCE_BEGINS = re.compile(
    r"(?:that\s)?(?:[A-Z][a-z]+|[Tt]he|[Ss]?[Hh]e|[Tt]hey|[Ii]t|[Tt]here|I|[Ww]e)\s(?:\w+\s){0,8}?(?:\w+(?:ed|s)|sold|is|are|has|have|was|were)\s"
)
_GLUED = re.compile(r"(?<=\d)[A-Za-z]+|(?<![A-Za-z'\u2019\\])[A-Za-z](?=\d)")  # 72x and x72 are not 72
_SPELLED = [
    (re.compile(pattern), spelled)
    for pattern, spelled in (
        (r"^\s*\(?\d{1,2}\)\s+(?=\S)", ""),  # 3) of a list
        (r"\\?\$\s?(?=[\d.,({])", ""),  # dollars
        (r"\s?(?:\\?%|percent)\s+of\s+(?=\d)", "/100*"),
        (r"(?<=\d)\s+out\s+of\s+(?=\d)", "/"),
        (r"(?<=\d)\s+of\s+(?=\d)", "*"),
        (r"(?<=\d)\s?/\s?(?=[A-Za-z]{2})", " per "),
    )
]
_COUNTED = re.compile(r"(?<=\d)\s+([A-Za-z]{2,20})(?=\s*(?:[-+*=\u00d7\u00f7]|/\s*\d))")
_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=[\d$(])")


_NO_NOUN = CHANGING | MAGNITUDES.keys() | {"and", "is", "are", "was"}
_MAY_BE_GLUED = UNIT_NAMES | MAGNITUDES.keys() | {"e", "E"}


def _plain(clause: str) -> str:
    """Without markup and remarks in brackets; 9 x 8 as a product."""
    without = _PARENTHESIS.sub(lambda match: match.group() if DENIAL.search(match.group()) else "", clause)
    plain = _MARKUP.sub("", without)
    for pattern, spelled in _SPELLED:
        plain = pattern.sub(spelled, plain)
    plain = _COUNTED.sub(
        lambda match: match.group() if match[1].casefold() in _NO_NOUN else " ", _TIMES.sub(r"\\times ", plain)
    )
    return _GLUED.sub(lambda match: match.group() if match.group() in _MAY_BE_GLUED else " \\glued ", plain)


def _leading(found: list[tuple[str, object]]) -> Fraction:
    """The number of a clause's tokens, up to the words that lead on to other things."""
    kinds = [kind for kind, _ in found]
    first = kinds.index("num") if "num" in kinds else len(kinds)
    stop = len(found)
    for at in range(first + 1, len(found)):
        if (
            found[at][0] == "word"
            and (_word(found[at]) in _LEADS_ON or (_word(found[at]).endswith("n't") and at > first + 1))
            and (at + 1 == len(found) or found[at + 1][0] != "rel")
        ):
            stop = at
            break
    rest = found[stop:]
    if any(kind == "rel" for kind, _ in rest):
        raise UnreadableError("a relation further on")
    if _DENIED_AFTER.search(" ".join(_word(token) for token in rest if token[0] == "word")) or any(
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
    if len(text) > MAX_END:
        first = _SENTENCE.search(text, len(text) - MAX_END)
        start = len(text) if first is None else first.end()
    for end in [*_SENTENCE.finditer(text, start), None]:
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
    if _ANSWER_OPERATED.search(words) or RETRACTED.search(text, stop) or _denied(words):
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
            return None  # two numbers side by side
        at -= 1
        if found[at][0] == "word" and at > 0 and found[at - 1][0] == "word":
            break
    if at > 0 and found[at - 1][0] == "word":
        word, before = _word(found[at - 1]), found[at - 2][0] if at > 1 else ""
        earlier = _word(found[at - 2]) if before == "word" else before
        if word == "of" and (
            earlier in CHANGING or earlier in ("%", "square", "percent", "sum", "difference", "product")
        ):
            return None
        if word in (CHANGING | _BEFORE_ANOTHER) - {"to", "around"} or (word in ("to", "and") and before == "num"):
            return None
    if at > 1 and found[at - 1][0] == ":" and found[at - 2][0] == "num":
        return None
    if at > 1 and found[at - 1][0] == "," and any(kind == "num" for kind, _ in found[max(0, at - 4) : at]):
        return None
    if at < last and found[at] == ("rel", "="):
        at += 1
    return _leading(found[at:])


_CONDITION = re.compile(r"\W*if\b.*,\s", re.IGNORECASE)  # "If you add them, you get 72."
_ANSWER_OPERATED = re.compile(
    r"\banswer\b\s*(?:[-+*/^]|plus\b|minus\b|times\b|divided\b|multiplied\b|['\u2019]s\b)|\b(?:in|of) the answer\b",
    re.IGNORECASE,
)
# After a number and its noun: "72 clips is wrong". What 72 clips are not, or do not do, denies no number.
_DENIED_AFTER = re.compile(
    r"\b(?:wrong|false|incorrect|untrue|impossible|unlikely|maybe|perhaps|possibly|doubt\w*|guess\w*|if|unless"
    r"|not\s(?:right|correct|true|it|possible|the (?:right |correct )?answer))\b(?!-)",
    re.IGNORECASE,
)


def _denied(sentence: str) -> bool:
    """Whether the last number of a sentence is denied or doubted before it, or right after it."""
    numbers = list(re.finditer(r"\d(?:[\d.,]*\d)?", sentence))
    if not numbers:
        return True
    before, after = (
        _CONDITION.sub("", SUBORDINATE.sub("", sentence[: numbers[-1].start()])),
        sentence[numbers[-1].end() :],
    )
    return bool(DENIAL.search(before) or TAKEN_BACK.match(after) or _DENIED_AFTER.search(after))


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
