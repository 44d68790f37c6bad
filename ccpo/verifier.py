"""Outcome verifier: a model's text and the truth in, a verdict out.

``boxed``   the last ``\\boxed{...}``; compared for equivalence. Strings equal after normalization and pairs of
            integers are decided here; the rest goes to math-verify in a child process (``ccpo.verifier_worker``),
            because symbolic algebra on model output can take for ever and math-verify's own time limit needs the main
            thread.
``number``  the boxed number, else the one after ``####``, else after "answer is", else the last one; compared by value.
``option``  a letter A-E that is clearly the choice; without one, the full text of exactly one of the row's options.

A final answer is read, never guessed: what cannot be read is ``Verdict(None, 0.0, False)``. Source: our construction.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ccpo.algebra import (
    INTEGER,
    MAX_ANSWER,
    NUMBER,
    canonical,
    contradicts,
    normalize,
    number_value,
    numbers,
    only_number,
    plain,
    simple_value,
    too_complex,
)

ANSWER_TYPES = ("boxed", "number", "option")
LETTERS = "ABCDE"  # of options

MAX_TEXT = 100_000  # characters; of a longer text the end is read, where the final answer is
MAX_WORKERS = 4  # child processes, started one by one when all are busy; about 100 MB each
STARTUP_SECONDS = 120.0  # importing sympy on a busy machine; not part of a verdict's time
GRACE_SECONDS = 0.2  # beyond the child's own limit, then the child itself is replaced


@dataclass(frozen=True)
class Verdict:
    """``answer``: what was read, normalized, None if nothing was; ``reward``: 1.0 if it is the truth, else 0.0."""

    answer: str | None
    reward: float
    parsed: bool


UNPARSED = Verdict(None, 0.0, False)


def verify(text: str, truth: str, answer_type: str = "boxed", options: Sequence[str] = ()) -> Verdict:
    """Judge ``text``. Safe from any thread; bounded in time and memory whatever ``text`` is, and never raises because
    of it.

    ``options``: texts of the row's options without their letters, in the order A, B, ...; only "option" uses them. A
    letter beyond them is no choice; without them, every letter A-E is one.

    Raises ValueError for an unknown ``answer_type``, too many ``options`` or a ``truth`` that is empty, not of that
    type or not among the options (mistakes in the data), RuntimeError if the child process cannot start (math-verify
    is not installed).
    """
    _check_type(answer_type)
    if not isinstance(truth, str) or not truth.strip():
        raise ValueError(f"truth must be a non-empty string, got {truth!r}: every answer to this row would be wrong")
    if not isinstance(text, str):
        return UNPARSED
    text = text[-MAX_TEXT:].encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
    if answer_type == "option":
        return _verify_option(text, truth, options)
    return {"boxed": _verify_boxed, "number": _verify_number}[answer_type](text, truth)


def _check_type(answer_type: str) -> None:
    if answer_type not in ANSWER_TYPES:
        raise ValueError(f"answer_type must be one of {ANSWER_TYPES}, got {answer_type!r}")


def label(answer: str, answer_type: str) -> str:
    """One spelling for the cheap equal values of a ``Verdict.answer``, to group ballots across sessions.

    "boxed": an integer, decimal or simple fraction as a fraction in lowest terms ("0.50" and "\\frac{2}{4}" are
    "1/2"), anything else normalized; "number" and "option" answers have one spelling already. Equal labels mean equal
    answers, not the reverse: see ``same_answer``. Raises ValueError for an unknown ``answer_type``. Source: our
    construction.
    """
    _check_type(answer_type)
    if answer_type != "boxed":
        return answer
    return canonical(answer)


def same_answer(a: str, b: str, answer_type: str) -> bool:
    """Whether two ``Verdict.answer`` mean the same: equal labels, or, if "boxed", equivalent to math-verify.

    Symmetric, but only as transitive as math-verify is. As safe and bounded as ``verify``; what is too complex or
    takes too long counts as different. Raises ValueError for an unknown ``answer_type``, RuntimeError if the child
    process cannot start. Source: our construction.
    """
    a, b = sorted((label(a, answer_type), label(b, answer_type)))
    if a == b:
        return True
    if answer_type != "boxed" or not a:
        return False
    if simple_value(a) is not None and simple_value(b) is not None:
        return False
    if too_complex(a) or too_complex(b) or contradicts(a, b):
        return False
    return _POOL.equal(a, b) is True


def timeouts() -> int:
    """Number of answers given up in this process because algebra on them ran out of time."""
    return _POOL.timeouts


# --- boxed ------------------------------------------------------------------------------------------------------------

_BOXED = re.compile(r"\\boxed[ \t]{0,3}\{")


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}``; None without one, or if its braces do not close (a text cut short)."""
    starts = [match.end() for match in _BOXED.finditer(text)]
    end = _closing_brace(text, starts[-1]) if starts else None
    return None if end is None else text[starts[-1] : end]


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):  # an escaped brace is a character
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def _verify_boxed(text: str, truth: str) -> Verdict:
    boxed = last_boxed(text)
    if boxed is None or not boxed.strip():
        return UNPARSED
    if boxed.strip() == truth.strip():
        return Verdict(normalize(truth), 1.0, True)
    if too_complex(boxed):
        return UNPARSED
    answer, wanted = normalize(boxed), normalize(truth)
    if not answer:
        return UNPARSED
    if answer == wanted:
        return Verdict(answer, 1.0, True)
    integers = INTEGER.fullmatch(answer) and INTEGER.fullmatch(wanted) and "%" not in boxed + truth
    if integers or len(truth) > MAX_ANSWER or contradicts(boxed, truth):
        return Verdict(answer, 0.0, True)
    equal = _POOL.equal(boxed, truth)
    return UNPARSED if equal is None else Verdict(answer, float(equal), True)


# --- number -----------------------------------------------------------------------------------------------------------

_ANSWER_IS = re.compile(r"\banswer\b[\s*]{0,3}(?:is|=|:)[\s:*$\\({\[=]{0,12}", re.IGNORECASE)


def read_number(text: str) -> Fraction | None:
    """The final number of ``text`` by the rules in the module's docstring; None if there is none that can be read."""
    if _BOXED.search(text):
        boxed = last_boxed(text)
        return None if boxed is None else only_number(plain(boxed))
    text = plain(text)
    head, marker, tail = text.rpartition("####")
    if marker:
        first = NUMBER.search(tail)
        if first:
            return number_value(first)
    stated = [first for match in _ANSWER_IS.finditer(text) if (first := NUMBER.match(text, match.end()))]
    if stated:
        return number_value(stated[-1])
    found = numbers(text)
    return number_value(found[-1]) if found else None


def _verify_number(text: str, truth: str) -> Verdict:
    wanted = only_number(plain(truth))
    if wanted is None:
        raise ValueError(f"truth {truth!r} is not one number, as answer_type 'number' needs: set answer_type 'boxed'")
    value = read_number(text)
    if value is None:
        return UNPARSED
    return Verdict(str(value), float(value == wanted), True)


# --- option -----------------------------------------------------------------------------------------------------------

_END = r"(?=[.,;:!?)*\]\"']*(?:\s|$))"  # nothing glued to the letter: not "e.g."
_REASON = r"(?=\s{1,3}(?:because|since|as|and|which|based|due|given|for|is|\(|-|\u2014))"
# A bracketed letter, a capital that is no article, a letter that ends the clause, or a capital before its reason.
_LETTER = rf"(?:[(\[]\s?([A-Ea-e])\s?[)\]]|([B-E]){_END}|([A-Ea-e])(?:[.,;:!?)*\]\"']+(?=\s|$)|$|(?=\n))|(A){_REASON})"
_LEAD = r"[\s:*\"']{0,6}(?i:the\s)?(?i:(?:correct\s+|best\s+)?(?:option|choice|letter)\s?:?\s{0,3})?[*\"']{0,3}"
_CHOICE = re.compile(rf"\b(?i:answer|option|choice)\b[*]{{0,2}}\s{{0,3}}(?i:is\b|[:=]){_LEAD}{_LETTER}")
_CHOSEN = re.compile(
    rf"\bI(?:['\u2019](?:d|ll)| would| will)? {{1,3}}(?:choose|chose|pick|picked|select|go with)\b{_LEAD}{_LETTER}"
)
_RIGHT = re.compile(r"(?<![A-Za-z])[(\[]?([A-E])[)\]]?[*]{0,2} is (?:the )?(?:correct|right|best)\b")
_OPTION = re.compile(rf"\b(?:[Oo]ption|[Cc]hoice|OPTION|CHOICE)\s{{1,3}}[*\"']{{0,3}}{_LETTER}")
_BRACKETED = re.compile(r"[(\[]([A-E])[)\]]")
_LONE = re.compile(r"[\s*_#>\"'`]*[(\[]?([A-Ea-e])[)\]]?[\s.*_\"'`):]*")
_LISTED = re.compile(r"[\s*_#>]*(?:\(([A-E])\)|([A-E])[.):])[*_]*\s+\S.*")
_WRAPPER = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|bf|rm)(?![a-zA-Z])|[{}$]")


def _group(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def read_option(text: str) -> str | None:
    """The chosen letter of ``text``, upper case; None if no form that states a choice is found."""
    if _BOXED.search(text):
        boxed = last_boxed(text)
        if boxed is None or len(boxed) > MAX_ANSWER:
            return None
        boxed = _WRAPPER.sub("", boxed).replace("\\ ", " ").strip()
        found = _LONE.fullmatch(boxed) or _LISTED.fullmatch(boxed) or _OPTION.match(boxed)
        return _group(found) if found else None
    text = _WRAPPER.sub("", text)
    for patterns in ((_CHOICE, _CHOSEN, _RIGHT), (_OPTION,)):
        stated = [match for pattern in patterns for match in pattern.finditer(text)]
        if stated:
            return _group(max(stated, key=lambda match: match.end()))
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in lines[-1:] + lines[:1]:
        line = line[:MAX_ANSWER]
        bracketed = set(_BRACKETED.findall(line))
        if len(bracketed) > 1:  # a discussion of several options
            continue
        found = _LONE.fullmatch(line) or _LISTED.fullmatch(line) or _BRACKETED.search(line)
        if found:
            return _group(found)
    return None


_STATED = re.compile(r"\banswer\b[\s*]{0,3}(?:is\b|=|:)[\s:*]{0,12}", re.IGNORECASE)
_MARKUP = "*_\"'`\u201c\u201d"


def _bare(text: str) -> str:
    """``text`` without case, spaces, markup and the punctuation at its end."""
    text = _WRAPPER.sub("", re.sub(r"\\(?=[%$&# ])", "", text))
    return "".join(text.casefold().split()).lstrip(_MARKUP).rstrip(_MARKUP + ".,;:!?")


def read_option_text(text: str, options: Sequence[str]) -> str | None:
    """The letter of the only option whose text is all that is in the last box or, without a box, on the line after the
    last "answer is" or on the last line; None if there is none."""
    if _BOXED.search(text):
        candidates = [last_boxed(text) or ""]
    else:
        stated = [match.end() for match in _STATED.finditer(text)][-1:]
        candidates = [text[start:].partition("\n")[0] for start in stated]
        candidates.append(text.strip().rpartition("\n")[2])
    texts = [_bare(option) for option in options]
    for candidate in map(_bare, candidates):
        if candidate and texts.count(candidate) == 1:
            return LETTERS[texts.index(candidate)]
    return None


def _verify_option(text: str, truth: str, options: Sequence[str]) -> Verdict:
    if len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options, but only the letters {LETTERS} are read: leave the row out")
    letters = LETTERS[: len(options)] or LETTERS
    found = _LONE.fullmatch(truth)
    if found is None or _group(found) not in letters:
        raise ValueError(f"truth {truth!r} is not one letter A-{letters[-1]}, as answer_type 'option' needs")
    letter = read_option(text)
    if letter is None or letter not in letters:
        letter = read_option_text(text, options)
    return UNPARSED if letter is None else Verdict(letter, float(letter == _group(found)), True)


# --- leaks ------------------------------------------------------------------------------------------------------------

_LEAD_IN = r"\b(?:answer|correct (?:option|choice))[*]{0,2}(?: is|:| =)[*]{0,2}[\s:*$(\[{]{0,9}"
_LEAK = re.compile(
    r"\\boxed|\bfinal answer[*]{0,2}(?: is|:| =)|####\s{0,3}[-+$\\]{0,3}\d"
    rf"|{_LEAD_IN}(?:\\?[($]?\s?[-+]?\.?\d|-?\\[a-z]{{2}}|[a-z] ?="
    r"|[a-e](?=[).\]*]{0,3}(?:\s{0,3}(?:$|\n)|[.,;)]\s)))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[ \t]+|(?<=\n)")


def looks_like_answer(text: str) -> bool:
    """Whether a thought states a final answer: boxed, after ``####`` or in words. For the leak rate of Think."""
    return _LEAK.search(text) is not None


def strip_answer(text: str) -> str:
    """``text`` without the sentences that state a final answer; the rest stays in order, spaces may change."""
    while (found := _BOXED.search(text)) and (end := _closing_brace(text, found.end())):
        text = text[: found.start()] + "\\boxed" + text[end + 1 :]  # its content may span sentences
    while looks_like_answer(text):
        kept = [part for part in _SENTENCE_END.split(text) if not looks_like_answer(part)]
        shorter = "".join(part if part.endswith("\n") else part + " " for part in kept).rstrip()
        text = shorter if len(shorter) < len(text) else _LEAK.sub("", text)
    return text


# --- child processes --------------------------------------------------------------------------------------------------


class _Worker:
    """One child process. Used by one thread at a time; ends by itself when its input is closed."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ccpo.verifier_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the pipe
        )
        try:
            hello = self._read(STARTUP_SECONDS) or {"error": f"not ready after {STARTUP_SECONDS:.0f} s"}
        except OSError as error:
            hello = {"error": str(error)}
        if "error" in hello:
            self.close(kill=True)
            raise RuntimeError(f"the verifier's child process did not start: {hello['error']}")
        self.limit: float = hello["limit"]

    def ask(self, answer: str, truth: str) -> dict | None:
        """The child's reply; None if it is stuck and has to be replaced. Raises OSError if it is gone."""
        self.process.stdin.write(json.dumps([answer, truth]).encode() + b"\n")
        return self._read(self.limit + GRACE_SECONDS)

    def _read(self, seconds: float) -> dict | None:
        fd = self.process.stdout.fileno()
        poll = select.poll()  # select.select fails on descriptors above 1023
        poll.register(fd, select.POLLIN | select.POLLHUP)
        line = b""
        while not line.endswith(b"\n"):  # replies are short: one read but for odd scheduling
            if not poll.poll(seconds * 1000):
                return None
            part = os.read(fd, 65536)
            if not part:
                raise ConnectionResetError("the verifier's child process ended")
            line += part
        return json.loads(line)

    def close(self, kill: bool = False) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        if kill:
            self.process.kill()
        self.process.wait()


class _Pool:
    """Up to MAX_WORKERS children, started one at a time when all are busy. Waiting for a free one is not part of a
    verdict's time: a right answer must not become wrong because the machine is busy."""

    def __init__(self) -> None:
        self.timeouts = 0
        self.idle: list[_Worker] = []
        self.alive = 0
        self.starting = False
        self.failure: Exception | None = None
        self.changed = threading.Condition()

    def equal(self, answer: str, truth: str) -> bool | None:
        """Whether the two are the same mathematics; None if ``answer`` cannot be read or takes too long."""
        for _ in range(MAX_WORKERS + 1):
            worker = self._take()
            try:
                reply = worker.ask(answer, truth)
            except OSError:  # killed from outside, perhaps while idle: not the answer's fault, ask another
                self._put(worker, alive=False)
                continue
            self._put(worker, alive=reply is not None)
            break
        else:
            raise RuntimeError("the verifier's child processes are being killed; is the machine out of memory?")
        if reply is None or reply["timeout"]:
            with self.changed:
                self.timeouts += 1
            return None
        return reply["equal"]

    def _take(self) -> _Worker:
        with self.changed:
            if not self.starting:
                self.failure = None
            while not self.idle:
                if self.failure is not None and not self.alive:
                    raise RuntimeError(str(self.failure)) from self.failure
                if not self.starting and self.alive < MAX_WORKERS:
                    self.starting = True
                    threading.Thread(target=self._start, daemon=True).start()
                self.changed.wait()
            return self.idle.pop()

    def _start(self) -> None:
        worker = failure = None
        try:
            worker = _Worker()
        except Exception as error:
            failure = error
        with self.changed:
            self.starting, self.failure = False, failure
            if worker is not None:
                self.alive += 1
                self.idle.append(worker)
            self.changed.notify_all()

    def _put(self, worker: _Worker, alive: bool) -> None:
        if not alive:
            worker.close(kill=True)
        with self.changed:
            if alive:
                self.idle.append(worker)
            else:
                self.alive -= 1
            self.changed.notify()

    def close(self) -> None:
        with self.changed:
            idle, self.idle = self.idle, []
        for worker in idle:
            worker.close()


_POOL = _Pool()


def _forget_pool() -> None:
    """In a forked child: the parent's pipes are not ours to talk on, open they keep its children alive."""
    global _POOL
    for worker in _POOL.idle:
        worker.process.stdin.close()
        worker.process.stdout.close()
        worker.process.returncode = 0  # not our child: nothing to wait for
    _POOL = _Pool()


atexit.register(lambda: _POOL.close())
os.register_at_fork(after_in_child=_forget_pool)
