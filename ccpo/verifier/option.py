"""``option``: the one letter A-E that a text chooses, or the one option whose full text it states.

A choice is a statement ("The answer is B.", "I choose (B)", "B is correct") or a text whose last line is nothing but a letter or an option. A
letter that is denied, doubted, joined to another one or only mentioned is no choice, and neither is the end of a list of options. Several
different choices of one kind are none. Source: our construction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from ccpo.verifier.latex import MAX_ANSWER
from ccpo.verifier.spelling import BOXED, closing_brace
from ccpo.verifier.stated import ATTRIBUTED, DENIAL, RETRACTED, SUBORDINATE, TAKEN_BACK, box_is_stated, without_blanks

LETTERS = "ABCDE"  # of options
MAX_LINES = 2_000  # the last ones of a text
MAX_BOXES = 50  # of one text
MAX_STATEMENTS = 100  # of one text and kind; who states more has chosen nothing

_END = r"(?=[.,;:!?)*\]\"'\u201d\u2019]*(?:\s|$))"  # nothing glued to the letter: not "e.g."
_REASON = r"(?=\s{1,3}(?:because|since|as|and|or|which|based|due|given|for|is|\(|-|\u2014))"
# A bracketed letter, a capital that is no article, a letter that ends the clause, or a capital before its reason.
_LETTER = rf"(?:[(\[]\s?([A-Ea-e])\s?[)\]]|([B-E]){_END}|([A-Ea-e])(?:[.,;:!?)*\]\"'\u201d\u2019]+(?=\s|$)|$|(?=\n))|(A){_REASON})"
_LEAD = (
    r"[\s:*\"'\u201c\u2018]{0,6}(?i:the\s|clearly\s|simply\s)?"
    r"(?i:(?:correct\s+|best\s+)?(?:option|choice|letter|answer)\s?:?\s{0,3})?[*\"'\u201c\u2018]{0,3}"
)
_STATEMENTS = (
    # what names itself the answer
    (
        re.compile(
            rf"(?:\b|(?<=final_))(?i:answer|option|choice)\b[*\"]{{0,2}}\s{{0,3}}(?i:(?:is|must be|should be|would be|has to be)\b|[:=]){_LEAD}{_LETTER}"
        ),
    ),
    # what chooses, or calls a letter right
    (
        re.compile(
            rf"\b(?:I|[Ww]e)(?:['\u2019](?:d|ll|m)| would| will| am)? {{1,3}}(?:choose|choosing|chose|pick|picked|select|go with|going with)\b{_LEAD}{_LETTER}"
        ),
        re.compile(
            r"(?<![A-Za-z])[(\[]?([A-E])[)\]]?[*]{0,2} (?:is|must be) (?:the )?(?:only )?(?:correct|right|best|true|answer)\b"
        ),
    ),
)
_LONE = re.compile(r"[\s*_#>\"'`]*[(\[]?([A-Ea-e])[)\]]?[\s.*_\"'`):]*")
_LISTED = re.compile(r"[\s*_#>-]*(?:[Oo]ption\s)?(?:\(([A-E])\)|([A-E])[.):])[*_]*\s+(\S.*)")
_GLUED = re.compile(r"[\s*_#>-]*\(?([A-E])[.):](\S.*)")
_OTHER_LETTER = re.compile(
    r"(?:^|\s)(?:[(\[][A-E][)\]]|[A-E][.):]+|(?:or|and|option)\s[A-E])(?=[\s.,;]|$)|^[A-E](?=\s|$)"
)
_NAMED = re.compile(
    rf"[\s*_#>\"'`]*(?i:option|choice|answer|ans)(?:\s{{1,3}}|\.?\s{{0,3}}[-:]\s{{0,3}})[*\"']{{0,3}}{_LETTER}[\s.*_\"'`):]*"
)
_CONCLUDES = r"is|be|it['\u2019]s|so|hence|thus|therefore|choose|pick|select|solution|elimination|leaves(?: only)?|leads to|going with"
_CONCLUDED = re.compile(
    rf"(?:.*[\s,*])?(?:(?i:{_CONCLUDES})\b|[:=\u2192])[\s*,:]{{0,4}}(?i:option\s|choice\s)?(?:[(\[]([A-E])[)\]]|([A-E]))[\s.*]*"
)
_EXPLAINED = re.compile(
    r"[\s*_#>\"'`]*(?:[(\[]([A-E])[)\]]|([A-E]))[*]{0,2}[.,]?\s(?i:because|since|as (?:it|the|this|that)|due to)\b.*"
    r"|[\s*_#>\"'`]*(?:[(\[]([A-E])[)\]]|([A-E]))[*]{0,2}\s[-\u2013\u2014]\s.*"
)
_WRAPPER = re.compile(
    r"</?[a-z_]+>|\\(?:text(?:bf|rm|it|tt|sf)?|math(?:rm|bf|it|tt|sf|bb|cal)|mbox|bf|rm|[lL]arge|bm)(?![a-zA-Z])|[{}$]"
)
_NOT_THIS = re.compile(
    r"\b(?:not|nor|neither|rather than|instead of|over|than)\s(?:the\s)?(?:option\s|choice\s)?"
    r"[(\[*]{0,2}(?-i:[A-E])[)\]*]{0,2}(?![\w'])(?:,?\s+(?:or|nor|and)\s[(\[*]{0,2}(?-i:[A-E])[)\]*]{0,2}(?![\w']))*(?:,?\s+but\s(?:rather\s)?)?",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"[\s.)*\]\"']*(?:,|;|/|&|\||\band\b|\bor\b|\bnor\b|,\s*(?:and|or)\b|\bas well as\b|\balong with\b|\bplus\b)?"
    r"[\s*]*(?:(?i:option|choice|maybe|perhaps)\s)*[(\[]?([A-E])"
    r"(?=[)\]*.,;:!?\"']*(?:\s*$|\s*[\n.,;!?]|\s+(?:or|and)\b|\s*[(\[]?[A-E]\b)|[)\]])"
)
_CALLED_WRONG = re.compile(
    r"[\s:.)*\u2013\u2014-]*(?:wrong|incorrect|false|untrue|no|nope|not\s(?:right|correct|true|it|supported))\b(?! of)",
    re.IGNORECASE,
)
_SAID_OF = re.compile(r"\s*(?:is|was)\b")  # "the answer is B is what he said"
_ORDINAL = re.compile(
    r"\b(?:next|other|another|first|second|third|fourth|previous|weakest|poorest|worse)\s$", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.!?;]\s+|,\s+(?=(?:it|it['\u2019]s|so|but|hence|therefore|thus)\b)")
_BOX_LEAD = re.compile(r"(?:the\s)?(?:final\s|correct\s)?answer\s?(?:is|:)\s?:?\s*", re.IGNORECASE)
_NO_LETTER = re.compile(r"(?<!#)#[(\[]?[A-Ea-e]\b|[^'\u2018]*\b[A-Ea-e]'")  # a tag; B' of mathematics
_OWN = re.compile(
    r"[\s*_#>-]*(?:(?i:option|choice)\s)?[(\[]?([A-E])[)\]]?[.:)*_\u2013\u2014-]*\s+(?:[\u2013\u2014-]\s)?(\S.*)"
)
_BEGINS_WITH_NOT = re.compile(r"\W*(?:not|neither)\b", re.IGNORECASE)
_JOINED_BEFORE = re.compile(r"(?<![A-Za-z'])[A-E][)\]]?(?:[ \t]*(?:,|/|&|\bor\b|\band\b)[ \t]*|[ \t]+)\Z")
_BLANKS = re.compile(r"\s{3,}")
_CLAUSE_BEFORE = re.compile(r"[.!?;:\n](?=\s|$)|\n|\",\s")
_CLAUSE_AFTER = re.compile(r"[.!?;,:\n]|\b(?:because|since|as|for|which|based|due|given)\b|\(|\u2014", re.IGNORECASE)


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def _without_others(text: str) -> str:
    """``text`` without the letters that it names only to set them aside: "A rather than B" is A."""
    return re.sub(r"\s+(?=[.,;:!?](?:\s|$))", "", without_blanks(_NOT_THIS.sub("", text)))


def _letter_end(match: re.Match[str]) -> int:
    return max(match.end(group) for group in range(1, len(match.groups()) + 1) if match[group])


def letter_of(text: str) -> str | None:
    """The letter that is all of ``text`` (a truth); None if it is more or less than one."""
    found = _LONE.fullmatch(text)
    return _letter(found) if found else None


def read_option(text: str, options: Sequence[str]) -> str | None:
    """The chosen letter of ``text``, upper case; None if it states none, or more than one."""
    letters = LETTERS[: len(options)] or LETTERS
    texts = [_bare(option) for option in options]
    if BOXED.search(text):
        several = len(BOXED.findall(text)) > MAX_BOXES
        choices = set() if several or not box_is_stated(text) else {_boxed(boxed, texts) for boxed in _boxes(text)}
    else:
        text = without_blanks(_WRAPPER.sub("", text))
        choices = _stated(_without_others(text), [_bare(_without_others(option)) for option in options])
        choices = choices or _last_line(text, texts)
    choice = choices.pop() if len(choices) == 1 else None
    return choice if choice is not None and choice in letters else None


# --- boxes ------------------------------------------------------------------------------------------------------------


def _boxes(text: str) -> Iterator[str]:
    for match in BOXED.finditer(text):
        end = closing_brace(text, match.end())
        yield "" if end is None else text[match.end() : end]


def _boxed(boxed: str, texts: Sequence[str]) -> str | None:
    if len(boxed) > MAX_ANSWER:
        return _by_text(boxed, texts)
    boxed = _WRAPPER.sub("", boxed).replace("\\ ", " ").strip()
    boxed = _BOX_LEAD.sub("", boxed, count=1) if _BOX_LEAD.match(boxed) else boxed
    letter = _line(boxed, texts)
    return letter if letter and letter in (LETTERS[: len(texts)] or LETTERS) else _by_text(boxed, texts)


# --- statements -------------------------------------------------------------------------------------------------------


def _stated(said: str, texts: Sequence[str]) -> set[str | None]:
    """The letters that are stated; {None} if what is stated cannot be one choice; empty without any statement."""
    for patterns in _STATEMENTS:
        found: set[str | None] = set()
        for pattern in patterns:
            matches = list(islice(pattern.finditer(said), MAX_STATEMENTS + 1))
            if len(matches) > MAX_STATEMENTS:
                return {None}
            for match in matches:
                if not _denied(said, match, texts):
                    found.add(
                        None if _several(said, match, texts) else _consistent(_letter(match), _rest(said, match), texts)
                    )
        if patterns is _STATEMENTS[0]:
            found |= _stated_texts(said, texts)
        if found:
            return found
    return set()


def _rest(text: str, match: re.Match[str]) -> str:
    """What follows the letter on its line: its text, or a remark."""
    return (
        text[match.end() : match.end() + 10 * MAX_ANSWER]
        .partition("\n")[0]
        .lstrip(" .,:;!?)]*\"'\u201d\u2019-\u2013\u2014")
    )


def _denied(text: str, match: re.Match[str], texts: Sequence[str]) -> bool:
    own = _is_text_of(_letter(match), _rest(text, match), texts)  # an option's text may deny something itself
    before = text[max(0, match.start() - 300) : match.start()]
    before = SUBORDINATE.sub("", _CLAUSE_BEFORE.split(before)[-1])
    after = text[_letter_end(match) :][:300]
    clause = _CLAUSE_AFTER.split(after.lstrip(")]*\"'"))[0]
    asked = after.lstrip(")]*\"'")[:1] == "?"
    after = after.partition("\n")[2] if own else after
    clause = "" if own else clause
    return bool(
        asked
        or any(map(DENIAL.search, (before, match.group(), clause)))
        or ATTRIBUTED.search(before + match.group())
        or _ORDINAL.search(before)
        or (not own and (TAKEN_BACK.match(after) or _CALLED_WRONG.match(after) or _SAID_OF.match(text, match.end())))
        or RETRACTED.search("\n" * own + after)
    )


def _several(text: str, match: re.Match[str], texts: Sequence[str]) -> bool:
    """Whether another letter is joined to the stated one: "B or C", "B, C", "(B) (C)"."""
    joined = _JOINED.match(text, _letter_end(match))
    if _is_text_of(_letter(match), _rest(text, match), texts):
        return False  # what follows is the option's own text, whatever letters it names
    if joined is not None and "." in text[_letter_end(match) : joined.start(1)] and _WORDS.match(text, joined.end()):
        joined = None  # a sentence about other letters
    before = _JOINED_BEFORE.search(text[max(0, match.start() - 20) : match.start()])
    return before is not None or (joined is not None and joined[1].upper() != _letter(match))


_WORDS = re.compile(r"[^.!?\n]*[a-z]{3}")


def _consistent(letter: str, rest: str, texts: Sequence[str]) -> str | None:
    """``letter``, unless what follows on its line is the text of another option."""
    other = _by_text(rest, texts)
    return letter if other in (None, letter) else None


_STATED_TEXT = re.compile(r"\banswer\b[\s*]{0,3}(?:is\b|=|:)[\s:*]{0,12}", re.IGNORECASE)


def _stated_texts(text: str, texts: Sequence[str]) -> set[str | None]:
    """Letters of the options whose text is all that follows an "answer is" on its line."""
    found: set[str | None] = set()
    for match in list(_STATED_TEXT.finditer(text))[-1:]:
        before = _CLAUSE_BEFORE.split(text[max(0, match.start() - 300) : match.start()])[-1]
        line, _, rest = text[match.end() :].partition("\n")
        letter = _by_text(line, texts)
        if letter and not DENIAL.search(before) and not RETRACTED.search("\n" + rest):
            found.add(letter)
    return found


# --- lines ------------------------------------------------------------------------------------------------------------


def _last_line(text: str, texts: Sequence[str]) -> set[str | None]:
    """The choice of a text that is, or ends with, nothing but an option, or begins with one; none if it lists several."""
    lines = [line for line in text.strip().splitlines() if line.strip()][-MAX_LINES:]
    lines = [_without_others(line) if _BEGINS_WITH_NOT.match(line) else line for line in lines]
    if not lines:
        return set()
    every = {
        choice for line in lines if (choice := _listed_letter(line) or _line(line, texts) or _by_text(line, texts))
    }
    if len(every) > 1:
        return {None}
    for line in (lines[-1], lines[0]):
        if len(line) <= MAX_ANSWER and (
            DENIAL.search(line) and not _by_text(line, texts) and not _lists_its_own(line, texts)
        ):
            continue
        choice = _line(line, texts) or (_by_text(line, texts) if line is lines[-1] else None)
        if choice and not (line is lines[0] and len(lines) > 1 and RETRACTED.search(text[len(line) :])):
            return {choice}
    last = _SENTENCE.split(lines[-1][-MAX_ANSWER:].rstrip())[-1]
    found = _CONCLUDED.fullmatch(last)
    if (
        found
        and not any(pattern.search(last) for pattern in (DENIAL, ATTRIBUTED))
        and len(set(re.findall(r"(?<![\w'])[(\[]?([A-E])(?![\w'])", last))) == 1
    ):
        return {_letter(found)}
    for line in (lines[-1], lines[0]):
        found = _EXPLAINED.fullmatch(line[:MAX_ANSWER])
        if found and not RETRACTED.search(text) and not _CALLED_WRONG.match(line, _letter_end(found)):
            return {_letter(found)}
    return set()


def _line(line: str, texts: Sequence[str]) -> str | None:
    """The letter of a line that is nothing but a letter, or a letter and a text that is no other option's."""
    line = line[: 2 * MAX_ANSWER]
    if _NO_LETTER.match(line):
        return None
    if found := _LONE.fullmatch(line) or _NAMED.fullmatch(line):
        return _letter(found)
    if found := _LISTED.fullmatch(line):
        letter = _letter(found)
        following = found[3]
        own = _is_text_of(letter, following, texts)
        if (not own and _OTHER_LETTER.search(following)) or _by_text(following, texts) not in (None, letter):
            return None
        return letter if own or not DENIAL.search(following) else None
    own = _OWN.fullmatch(line)
    if own and _is_text_of(own[1], own[2], texts):
        return own[1]
    glued = _GLUED.fullmatch(line)
    return glued[1] if glued and _is_text_of(glued[1], glued[2], texts) else None


def _listed_letter(line: str) -> str | None:
    found = _LISTED.fullmatch(line[: 2 * MAX_ANSWER])
    return _letter(found) if found else None


def _lists_its_own(line: str, texts: Sequence[str]) -> bool:
    """Whether a line is a letter and that option's own text, whatever the text denies."""
    line = line[: 2 * MAX_ANSWER]
    found = _LISTED.fullmatch(line) or _GLUED.fullmatch(line) or _OWN.fullmatch(line)
    return found is not None and _is_text_of(_letter(found), found[found.lastindex], texts)


_MARKUP = "*_\"'`\u201c\u201d"


def _bare(text: str) -> str:
    """``text`` without case, spaces, markup and the punctuation at its end."""
    text = _WRAPPER.sub("", re.sub(r"\\(?=[%$&# ])", "", text))
    return "".join(text.casefold().split()).lstrip(_MARKUP).rstrip(_MARKUP + ".,;:!")


def _is_text_of(letter: str, text: str, texts: Sequence[str]) -> bool:
    return LETTERS.index(letter) < len(texts) and _bare(text) == texts[LETTERS.index(letter)] != ""


def _by_text(text: str, texts: Sequence[str]) -> str | None:
    """The letter of the only option whose text is all of ``text``."""
    bare = _bare(text)
    return LETTERS[texts.index(bare)] if bare and texts.count(bare) == 1 else None
