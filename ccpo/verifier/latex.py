"""LaTeX answer -> tree. All of the answer is understood, or nothing is: a parser that skips what it does not know can be fooled.

A tree is a tuple whose first entry names its kind.

    numbers   ("num", Fraction) ("const", "pi") ("inf",) ("var", name) ("add", a, b) ("mul", a, b) ("div", a, b) ("pow", a, b)
              ("neg", a) ("fn", name, a) ("root", a, n) ("fact", a) ("binom", a, b) ("deg", a)
    answers   ("value", number, unit)            unit: None, "%" or a name of ccpo.verifier.units
              ("based", digits, base)            1011_2
              ("text", (word, ...))
              ("named", name, answer)            x = 5
              ("chain", relations, sides)        x + y = 5, 1 < x < 2
              ("group", open, close, answers)    a tuple, an interval or a set
              ("union", answers) ("list", answers) ("ratio", answers) ("matrix", rows of numbers)

What is read how: docs/verifier.md. Time and memory are bounded by the length of the answer. Source: our construction.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from ccpo.verifier.spelling import GROUP, clean
from ccpo.verifier.units import CHANGING, MAGNITUDES, UNIT_NAMES, unit_of

MAX_ANSWER = 500  # characters; the longest MATH truth has 159
MAX_DEPTH = 24  # nested brackets; the deepest MATH truth has 3
MAX_DIGITS = 1_000  # of one number

Tree = tuple


class UnreadableError(ValueError):
    """The answer is not understood as a whole."""


# --- tokens -----------------------------------------------------------------------------------------------------------

_TEXT = re.compile(
    r"\\(?:text(?:bf|rm|normal|it|tt|sf|sc|up)?|math(?:rm|bf|it|sf|tt)|mbox|operatorname|boldsymbol|bm|emph)\s?\{"
)
_OPEN, _CLOSE = "\ue001", "\ue002"  # around the inside of \text{...}, where letters are words

_NUMBER = re.compile(
    rf"(?P<whole>\d{{1,3}}(?:[{GROUP},]\d{{3}})+(?!\d)|\d{{1,3}}(?: \d{{3}})+(?! ?\d)|\d+)?"
    r"(?:\.(?P<decimals>\d*)(?:\\(?:overline|bar|dot)\s?(?:\{(?P<period>\d+)\}|(?P<digit>\d))|\((?P<round>\d+)\))?)?"
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})(?![\d.]))?",
    re.ASCII,
)
_NUMBER_STARTS = re.compile(r"\d|\.(?:\d|\\overline|\\bar)", re.ASCII)
_LETTERS = re.compile(r"[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]+(?:['.-][^\W\d_]+)*\.?")
_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|[{}%$|\\])")
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "\\lt": "<", "\\gt": ">", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=", "\\ge": ">=", "\\geq": ">=",
    "\\geqslant": ">=", "\\ne": "!=", "\\neq": "!=", "\\in": "in", "\\approx": "~", "\\sim": "~", "\\simeq": "~",
}  # fmt: skip
_JOINING = {"\\lor": "or", "\\vee": "or", "\\land": "and", "\\wedge": "and"}
_LETTER_COMMANDS = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell triangle angle".split()
)
FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp".split())
_ALIASES = {"\\lbrace": "\\{", "\\rbrace": "\\}", "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\div": "/", "\\ast": "*", "\\lbrack": "[",
            "\\rbrack": "]", "\\%": "%", "\\degree": "deg", "\\backslash": "\\setminus"}  # fmt: skip
# Two or three letters outside of \\text{...} that are a word all the same; other short runs are products of variables.
_WORDS = (UNIT_NAMES | MAGNITUDES.keys() | CHANGING | set("and yes odd all red".split())) - set(
    "am pm mg mi ml in lb oz rad gal".split()
)
_ASCII = {"pi": "\\pi", "sqrt": "\\sqrt"} | {
    name: f"\\{name}" for name in FUNCTIONS
}  # "sqrt(3)/2" without its backslash
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
          "eleven": "11", "twelve": "12", "sixteen": "16"}  # fmt: skip
_SYSTEMS = ("cases", "aligned", "align", "gathered")
_SIGNS = frozenset("+-*/^_!()[]{}|,;:%&.")
_DEEPER = {"(": 1, "[": 1, "\\{": 1, ")": -1, "]": -1, "\\}": -1}


def _unwrapped(text: str) -> str:
    """\\text{...} and its kin opened, from the inside out."""
    for _ in range(MAX_ANSWER):
        start = max((found.start() for found in _TEXT.finditer(text)), default=None)
        if start is None:
            return text
        inside = text.index("{", start) + 1
        end = text.find("}", inside)  # braces of other commands inside of words: nothing that we read
        if end < 0 or "{" in text[inside:end]:
            raise UnreadableError("braces in text")
        text = f"{text[:start]}{_OPEN}{text[inside:end]}{_CLOSE}{text[end + 1 :]}"
    raise UnreadableError("too much text")


def tokens(text: str, prose: bool = False, grouped: bool = False) -> list[tuple[str, object]]:
    """(kind, value); kinds are num, letter, word, rel, and of all else its own spelling. ``prose``: every letter is of a word. ``grouped``: a comma
    between digits groups thousands between brackets, too.

    Raises UnreadableError at the first character that is none of them.
    """
    text = _unwrapped(text)
    found: list[tuple[str, object]] = []
    at, inside, depth = 0, 0, 0
    while at < len(text):
        char = text[at]
        words = prose or inside > 0
        if char in (_OPEN, _CLOSE):
            inside += 1 if char == _OPEN else -1
            at += 1
        elif char == " ":
            at += 1
        elif _NUMBER_STARTS.match(text, at):
            at = _number(text, at, 0 if grouped else depth, found)
        elif words and (match := _WORD.match(text, at)):
            found.append(("word", match.group()))
            at = match.end()
        elif match := _LETTERS.match(text, at):
            run = match.group()
            if run in _ASCII and not words:
                found.append((_ASCII[run], run))
                at = match.end()
                continue
            word = len(run) > 3 or (len(run) > 1 and run.casefold() in _WORDS)
            found += [("word", run)] if word else [("letter", letter) for letter in run]
            at = match.end()
        elif match := _COMMAND.match(text, at):
            name = match.group()
            at = match.end()
            if name in _RELATIONS:
                found.append(("rel", _RELATIONS[name]))
            elif name in _JOINING:
                found.append(("word", _JOINING[name]))
            elif name[1:] in _LETTER_COMMANDS:
                found.append(("letter", name))
            else:
                name = _ALIASES.get(name, name)
                found.append((name, name))
                depth += _DEEPER.get(name, 0)
        elif char in "<>" and text[at + 1 : at + 2] == "=":
            found.append(("rel", char + "="))
            at += 2
        elif char in _RELATIONS:
            found.append(("rel", _RELATIONS[char]))
            at += 1
        elif char in _SIGNS:
            found.append((char, char))
            depth += _DEEPER.get(char, 0)
            at += 1
        else:
            raise UnreadableError(f"{char!r} means nothing here")
    return found


def _number(text: str, at: int, depth: int, found: list[tuple[str, object]]) -> int:
    """Append the number literal at ``at`` with its digits as written (None if it is no plain integer). Between brackets a comma separates."""
    match = _NUMBER.match(text, at)
    whole, end = match["whole"] or "", match.end()
    if "," in whole and depth > 0:
        whole = whole.partition(",")[0]
        found.append(("num", (Fraction(int(whole)), whole)))
        return at + len(whole)
    digits = re.sub(rf"[{GROUP}, ]", "", whole)
    decimals, period = match["decimals"] or "", match["period"] or match["digit"] or match["round"] or ""
    if match["decimals"] == "" and not period and match["exponent"] is None:
        end = at + len(whole)  # "72." ends a sentence
    if end == at:
        raise UnreadableError("a point without digits")
    if len(digits) + len(decimals) + len(period) > MAX_DIGITS:
        raise UnreadableError("too many digits")
    value = Fraction(int(digits or "0"))
    if decimals:
        value += Fraction(int(decimals), 10 ** len(decimals))
    if period:
        value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(decimals))
    if match["exponent"]:
        value *= Fraction(10) ** int(match["exponent"])
    plain = digits if not (decimals or period or match["exponent"]) else None
    found.append(("num", (value, plain)))
    return end


# --- grammar ----------------------------------------------------------------------------------------------------------


def read(text: str) -> Tree:
    """The tree of a whole answer. Raises UnreadableError."""
    tree = _read(text)
    if isinstance(tree, str):
        raise UnreadableError(tree)
    return tree


@lru_cache(maxsize=8192)
def _read(text: str) -> Tree | str:
    """The tree, or why there is none."""
    if len(text) > MAX_ANSWER:
        return "too long"
    try:
        return parse(tokens(clean(text)))
    except UnreadableError as error:
        return str(error) or "unreadable"


def parse(found: list[tuple[str, object]]) -> Tree:
    """The tree of tokens. Raises UnreadableError."""
    found = list(found)
    if len(found) > MAX_ANSWER:
        raise UnreadableError("too long")
    if found and found[-1][0] in (".", ",", ";"):
        found.pop()
    while found and found[0][0] == "{" and _closing(found, 0) == len(found) - 1:
        found = found[1:-1]
        if found and found[-1][0] in (".", ",", ";"):
            found.pop()
    try:
        plus = _Parser(list(found), +1).whole()
        if any(kind in ("\\pm", "\\mp") for kind, _ in found):
            return _both(plus, _Parser(list(found), -1).whole())
        return plus
    except UnreadableError:
        raise
    except (ValueError, ZeroDivisionError, RecursionError) as error:
        raise UnreadableError(str(error)) from error


def _both(plus: Tree, minus: Tree) -> Tree:
    """The answers of both readings of \\pm: 0, \\pm 1 is 0, 1, -1."""
    for kind, at in (("list", 1), ("group", 3)):
        if plus[0] == minus[0] == kind and plus[1] in ("{", plus[at]):
            return (*plus[:at], plus[at] + tuple(item for item in minus[at] if item not in plus[at]))
    return ("list", (plus, minus))


def _closing(found: list[tuple[str, object]], start: int) -> int | None:
    """Where the bracket at ``start`` closes, whatever stands for the other end (intervals mix them)."""
    depth = 0
    for at in range(start, len(found)):
        depth += {"{": 1, "}": -1, "\\langle": 1, "\\rangle": -1}.get(found[at][0], _DEEPER.get(found[at][0], 0))
        if depth == 0:
            return at
    return None


def _orders(tree: Tree) -> bool:
    return tree[0] == "chain" and set(tree[1]) != {"="}


class _Parser:
    """Recursive descent. ``sign``: what \\pm means in this reading."""

    def __init__(self, found: list[tuple[str, object]], sign: int) -> None:
        self.tokens, self.at, self.sign, self.depth = found, 0, sign, 0

    # tokens
    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][0] if self.at + ahead < len(self.tokens) else "end"

    def value(self, ahead: int = 0) -> object:
        return self.tokens[self.at + ahead][1]

    def take(self, kind: str) -> object:
        if self.peek() != kind:
            raise UnreadableError(f"{self.peek()} where {kind} should stand")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def skip(self, kind: str) -> bool:
        if self.peek() == kind:
            self.at += 1
            return True
        return False

    # answers
    def whole(self) -> Tree:
        if not self.tokens:
            raise UnreadableError("empty")
        tree = self.items()
        if self.peek() != "end":
            raise UnreadableError(f"{self.peek()} is left over")
        return tree

    def items(self) -> Tree:
        """Answers between commas, semicolons, "and" and "or"."""
        found = [self.item()]
        while joint := self.separator():
            found.append(self.item())
            if joint == "and" and any(_orders(item) for item in found):
                raise UnreadableError("two relations at once")
        return found[0] if len(found) == 1 else ("list", tuple(found))

    def separator(self) -> str | None:
        joint = "," if self.skip(",") or self.skip(";") else None
        if self.joins():
            joint = str(self.value()).casefold()
            self.at += 1
        return joint

    def joins(self) -> bool:
        return self.peek() == "word" and str(self.value()).casefold() in ("and", "or")

    def item(self) -> Tree:
        name = self.name()
        if name is not None:
            if self.take("rel") == "in":
                return ("named", name, self.union())
            return ("named", name, self.chain())
        if self.peek() == "word":
            return self.based() or self.text()
        if self.peek() == "\\begin" and self.peek(2) == "word" and self.value(2) in _SYSTEMS:
            return self.system()
        return self.chain()

    def system(self) -> Tree:
        """The lines of a system of equations, as a list."""
        kind = self.environment("\\begin")
        found: list[Tree] = []
        while self.peek() != "\\end":
            found.append(self.item())
            self.skip(",")
            if not self.skip("\\\\") and self.peek() != "\\end":
                raise UnreadableError("a line of a system")
        if self.environment("\\end") != kind or not found:
            raise UnreadableError("a system")
        return found[0] if len(found) == 1 else ("list", tuple(found))

    def text(self) -> Tree:
        """Words, perhaps with numbers among them ("October 30"): only compared as they are."""
        found: list[str] = []
        while self.peek() in ("word", "letter", "num") and not (found and self.joins()):
            kind, value = self.tokens[self.at]
            found.append(str(value[0]) if kind == "num" else str(value).rstrip("."))
            self.at += 1
        return ("text", tuple(found))

    def name(self) -> str | None:
        """The unknown before "=" or "in": a letter with or without an index or arguments, capitals of a figure, or words."""
        start = self.at
        letters = []
        if self.skip("("):  # (x, y) = (1, 2)
            while self.peek() in ("letter", ","):
                letters.append(str(self.value()))
                self.at += 1
            if "," in letters and self.skip(")") and self.peek() == "rel" and self.value() in ("=", "in"):
                return "".join(letters)
            self.at = start
            return None
        while self.peek() in ("letter", "word"):
            letters.append(str(self.value()))
            self.at += 1
        denied = any(word.casefold() in CHANGING for word in letters if len(word) > 1)
        if letters and self.skip("_"):
            letters.append("_" + str(self.index()))
        if len(letters) == 1 and self.skip("("):
            inside = 1
            while inside and self.peek() in ("letter", "num", ",", ")"):
                inside -= self.peek() == ")"
                letters.append(str(self.value()))
                self.at += 1
        if letters[:1] == ["m"] and letters[1:2] == ["\\angle"]:
            letters = letters[1:]  # the measure of an angle
        capitals = all(len(x) > 1 or x.isupper() or x.startswith("_") for x in letters)
        fits = letters and (
            len(letters) == 1 or letters[1][:1] in ("_", "(") or "," in letters or letters[-1] == ")" or capitals
        )
        if fits and not denied and self.peek() == "rel" and self.value() in ("=", "in"):
            return "".join(letters)
        self.at = start
        return None

    def index(self) -> object:
        """What stands after an underscore."""
        if self.skip("{"):
            parts = []
            while not self.skip("}"):
                if self.peek() not in ("num", "letter", "word"):
                    raise UnreadableError("index")
                parts.append(self.value()[1] if self.peek() == "num" else self.value())
                self.at += 1
            return "".join(map(str, parts))
        if self.peek() in ("num", "letter", "word"):
            self.at += 1
            value = self.tokens[self.at - 1][1]
            return value[1] if isinstance(value, tuple) else value
        raise UnreadableError("index")

    def chain(self) -> Tree:
        """Sides between relations, or between the colons of a ratio."""
        sides, operators = [self.union()], []
        while self.peek() == "rel":
            operators.append(str(self.take("rel")))
            sides.append(self.union())
        if not operators:
            if self.peek() != ":":
                return sides[0]
            while self.skip(":"):
                sides.append(self.union())
            return ("ratio", tuple(sides))
        return ("chain", tuple(operators), tuple(sides))

    def union(self) -> Tree:
        found = [self.side()]
        while self.skip("\\cup") or (found[-1][0] == "group" and self.capital_u()):
            found.append(self.side())
        return found[0] if len(found) == 1 else ("union", tuple(found))

    def capital_u(self) -> bool:
        """(1, 2) U (3, 4)."""
        stands = self.peek() == "letter" and self.value() == "U" and self.peek(1) in ("(", "[")
        self.at += stands
        return stands

    def side(self) -> Tree:
        """A group of answers, or a number with what belongs to it."""
        if self.peek() == "\\begin":
            return self.matrix()
        if self.peek() in ("(", "[") and self.peek(1) == "\\begin":
            closing = ")" if self.peek() == "(" else "]"
            self.at += 1
            tree = self.matrix()
            self.take(closing)
            return tree
        group = self.group()
        if group is not None:
            return group
        negative = self.peek() == "-" and self.peek(1) == "\\$"
        self.at += negative
        money = self.skip("\\$")
        based = None if money else self.based()
        if based is not None:
            return based
        tree = self.over(self.sum())
        return self.with_unit(("neg", tree) if negative else tree, "dollar" if money else None)

    def group(self) -> Tree | None:
        """A tuple, an interval or a set; None if what stands here is arithmetic."""
        opened = self.peek()
        if opened in ("\\emptyset", "\\varnothing"):
            self.at += 1
            return ("group", "{", "}", ())
        if opened == "\\mathbb":
            return self.reals()
        closing = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "\\langle": ("\\rangle",), "{": ("}",)}.get(
            opened
        )
        end = _closing(self.tokens, self.at) if closing else None
        if end is None:
            return None
        if opened in ("(", "[", "{"):  # brackets of arithmetic have no comma of their own
            inside = [kind for kind, _ in self.tokens[self.at + 1 : end]]
            worded = inside[:1] == ["word"]
            if not worded and not ("," in inside or ";" in inside):
                return None
            if not worded and opened != "{" and not self.has_items(self.at + 1, end):
                return None
        self.at += 1
        if self.at == end:
            self.at += 1
            return ("group", "{", "}", ())
        described = opened == "\\{" and self.described()
        inner = self.deeper(self.items)
        if described:
            if not _orders(inner):
                raise UnreadableError("a set that is described by no inequality")
            self.take("\\}")
            return inner
        if self.at != end or self.peek() not in closing:
            raise UnreadableError(f"{opened} does not close")
        closed = str(self.take(self.peek()))
        items = inner[1] if inner[0] == "list" else (inner,)
        if opened == "{" or (inner[0] == "text" and (opened, closed) == ("(", ")")):  # braces of LaTeX; (B) is B
            return inner
        if (opened, closed) in (("(", "]"), ("[", ")")) and len(items) != 2:
            raise UnreadableError("brackets do not match")
        return ("group", opened.strip("\\"), closed.strip("\\"), items)

    def reals(self) -> Tree:
        for kind, value in (("\\mathbb", "\\mathbb"), ("{", "{"), ("letter", "R"), ("}", "}")):
            if self.take(kind) != value:
                raise UnreadableError("a set of other numbers")
        infinite = ("value", ("inf",), None)
        return ("group", "(", ")", (("value", ("neg", ("inf",)), None), infinite))

    def described(self) -> bool:
        """{x | 1 < x}, {x \\in R : 1 < x}: up to what describes it."""
        start = self.at
        if self.skip("letter"):
            if self.peek() == "rel" and self.value() == "in":
                self.at += 1
                self.reals()
            if self.skip("|") or self.skip("\\mid") or self.skip(":"):
                return True
        self.at = start
        return False

    def has_items(self, start: int, end: int) -> bool:
        """Whether a comma between these tokens is in no inner bracket."""
        depth = 0
        for kind, _ in self.tokens[start:end]:
            depth += {"{": 1, "}": -1}.get(kind, _DEEPER.get(kind, 0))
            if depth == 0 and kind in (",", ";"):
                return True
        return False

    def matrix(self) -> Tree:
        """\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}; round and square ones are one thing."""
        kind = self.environment("\\begin")
        if kind not in ("pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "psmallmatrix", "bsmallmatrix"):
            raise UnreadableError(f"{kind} is no matrix")
        if kind == "array":
            self.at = (_closing(self.tokens, self.at) or 0) + 1 if self.peek() == "{" else self.at
        rows: list[list[Tree]] = [[]]
        while self.peek() != "\\end":
            rows[-1].append(self.sum())
            if self.skip("\\\\"):
                if self.peek() != "\\end":
                    rows.append([])
            elif not self.skip("&") and self.peek() != "\\end":
                raise UnreadableError("a matrix")
        if self.environment("\\end") != kind or len({len(row) for row in rows}) != 1:
            raise UnreadableError("a matrix")
        return ("matrix", tuple(map(tuple, rows)))

    def environment(self, command: str) -> str:
        self.take(command)
        self.take("{")
        name = str(self.take("word"))
        self.take("}")
        return name

    def deeper(self, part):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("too deep")
        try:
            return part()
        finally:
            self.depth -= 1

    def based(self) -> Tree | None:
        """1011_2, A5_{11}."""
        start, digits = self.at, ""
        negative = self.skip("-")
        while self.peek() in ("num", "letter", "word"):
            kind, value = self.tokens[self.at]
            part = value[1] if kind == "num" else str(value)
            if part is None or not re.fullmatch(r"[0-9A-Z]+", part):
                break
            digits += part
            self.at += 1
        if digits and digits[0].isdigit() | (len(digits) > 1) and self.skip("_"):
            base = str(self.index())
            base = _BASES.get(base.casefold(), base)
            highest = max(int(digit, 36) for digit in digits)
            if base.isdigit() and 2 <= int(base) <= 36 and highest < int(base):
                return ("based", ("-" if negative else "") + digits, int(base))
            raise UnreadableError("no number of that base")
        self.at = start
        return None

    def with_unit(self, number: Tree, unit: str | None) -> Tree:
        if number[0] == "deg" or (number[0] == "neg" and number[1][0] == "deg"):
            number, unit = (number[1], "degree") if number[0] == "deg" else (("neg", number[1][1]), "degree")
            if "pi" in str(number):
                raise UnreadableError("an angle in radians and degrees")
        if self.peek() in ("%", "deg", "\\$"):
            if unit:
                raise UnreadableError("two units")
            unit = {"%": "%", "deg": "degree", "\\$": "dollar"}[self.peek()]
            self.at += 1
        words: list[str] = []
        while self.peek() == "word" and not self.joins():
            word = str(self.value())
            magnitude = MAGNITUDES.get(word, MAGNITUDES.get(word.casefold().rstrip(".")))
            if magnitude and not words:
                number = (
                    ("num", number[1] * magnitude)
                    if number[0] == "num"
                    else ("mul", number, ("num", Fraction(magnitude)))
                )
            else:
                words.append(word)
            self.at += 1
            if words and self.peek() == "/" and self.peek(1) == "word":
                self.at += 1
        if not words:
            return ("value", number, unit)
        power = 1
        if self.skip("^"):
            grouped = self.skip("{")
            power = int(self.take("num")[0])
            if grouped:
                self.take("}")
        if words == ["percent"] or words == ["per", "cent"]:
            found = "%"
        else:
            found = unit_of(words, power)
        if unit and found and found != unit:
            raise UnreadableError("two units")
        return ("value", number, found or unit)

    # numbers
    def sum(self) -> Tree:
        tree = None
        while True:
            sign = self.peek()
            if sign in ("+", "-", "\\pm", "\\mp"):
                self.at += 1
            elif tree is not None:
                return tree
            term = self.product()
            negative = sign == "-" or (sign == "\\pm" and self.sign < 0) or (sign == "\\mp" and self.sign > 0)
            term = ("neg", term) if negative else term
            tree = term if tree is None else ("add", tree, term)

    def product(self) -> Tree:
        tree = self.factor()
        while True:
            kind = self.peek()
            if kind in ("*", "\\cdot", "\\times", "/"):
                self.at += 1
                negative = self.skip("-")
                right = self.factor()
                right = ("neg", right) if negative else right
                tree = ("div" if kind == "/" else "mul", tree, right)
            elif (
                kind
                in ("letter", "(", "[", "{", "|", "num", "\\frac", "\\sqrt", "\\pi", "\\binom", "\\lfloor", "\\lceil")
                or kind[1:] in FUNCTIONS
            ):
                if kind == "|" and self.bars:
                    return tree
                tree = self.juxtaposed(tree)
            else:
                return tree

    bars = 0

    def juxtaposed(self, left: Tree) -> Tree:
        """Two factors side by side: a product; an integer before a proper fraction: a mixed number."""
        kind = self.peek()
        if kind == "(" and left in (("var", "f"), ("var", "g"), ("var", "h")):
            raise UnreadableError("the value of a function")
        right = self.factor()
        if left[0] == "num":
            if kind == "num":
                if self.skip("/") and self.peek() == "num" and left[1].denominator == 1:
                    return self.mixed(left, right, self.factor())
                raise UnreadableError("two numbers side by side")
            if kind == "\\frac" and right[0] == "div" and right[1][0] == right[2][0] == "num":
                return self.mixed(left, right[1], right[2])
        elif kind == "num" and left[0] != "fact":
            raise UnreadableError("a number after a factor")
        return ("mul", left, right)

    @staticmethod
    def mixed(whole: Tree, top: Tree, bottom: Tree) -> Tree:
        parts = (whole, top, bottom)
        if (
            any(part[0] != "num" or part[1].denominator != 1 or part[1] < 0 for part in parts)
            or not 0 < top[1] < bottom[1]
        ):
            raise UnreadableError("no mixed number")
        return ("num", whole[1] + top[1] / bottom[1])

    def factor(self) -> Tree:
        tree = self.deeper(self.primary)
        while True:
            if self.skip("^"):
                braces = self.peek() == "{" and self.peek(1) == "\\circ"
                if braces or self.peek() == "\\circ":
                    self.at += 1 + braces
                    if braces:
                        self.take("}")
                    return ("deg", tree)
                tree = ("pow", tree, self.exponent())
            elif self.skip("!"):
                if tree[0] == "fact":
                    raise UnreadableError("a double factorial")
                tree = ("fact", tree)
            else:
                return tree

    def exponent(self) -> Tree:
        if self.peek() == "{":
            return self.braced()
        negative = self.skip("-")
        if self.peek() == "num":
            tree = ("num", self.take("num")[0])  # x^10 is meant as x^{10}, though LaTeX raises the first digit alone
        else:
            tree = self.deeper(self.primary)
        return ("neg", tree) if negative else tree

    def braced(self) -> Tree:
        self.take("{")
        tree = self.over(self.deeper(self.sum))
        self.take("}")
        return tree

    def over(self, top: Tree) -> Tree:
        """a \\over b, TeX's own fraction."""
        if self.skip("\\choose"):
            return ("binom", top, self.deeper(self.sum))
        return ("div", top, self.deeper(self.sum)) if self.skip("\\over") else top

    def argument(self) -> Tree:
        """Of \\frac and \\sqrt: braces, or a single sign; of a number without braces its first digit."""
        if self.peek() == "{":
            return self.braced()
        if self.peek() == "num":
            value, digits = self.tokens[self.at][1]
            if digits is None:
                raise UnreadableError("an argument without braces")
            if len(digits) > 1:
                self.tokens[self.at] = ("num", (Fraction(int(digits[1:])), digits[1:]))
                return ("num", Fraction(int(digits[0])))
            self.at += 1
            return ("num", value)
        return self.deeper(self.primary)

    def primary(self) -> Tree:
        kind = self.peek()
        if kind == "num":
            return ("num", self.take("num")[0])
        if kind == "letter":
            name = str(self.take("letter"))
            if self.skip("_"):
                return ("var", f"{name}_{self.index()}")
            return {"e": ("const", "e"), "i": ("const", "i")}.get(name, ("var", name))
        if kind == "{":
            return self.braced()
        if kind in ("(", "["):
            self.at += 1
            bars, self.bars = self.bars, 0
            tree = self.deeper(self.sum)
            self.bars = bars
            self.take(")" if kind == "(" else "]")
            return tree
        if kind in ("|", "\\lfloor", "\\lceil"):
            self.at += 1
            self.bars += kind == "|"
            tree = self.deeper(self.sum)
            self.bars -= kind == "|"
            self.take({"|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}[kind])
            return ("fn", {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}[kind], tree)
        if kind == "\\pi":
            self.at += 1
            return ("const", "pi")
        if kind == "\\infty":
            self.at += 1
            return ("inf",)
        if kind == "\\frac":
            self.at += 1
            return ("div", self.argument(), self.argument())
        if kind == "\\binom":
            self.at += 1
            return ("binom", self.argument(), self.argument())
        if kind == "\\sqrt":
            self.at += 1
            root: Tree = ("num", Fraction(2))
            if self.skip("["):
                root = self.deeper(self.sum)
                self.take("]")
            return ("root", self.argument(), root)
        if kind[1:] in FUNCTIONS:
            self.at += 1
            return self.function(kind[1:])
        raise UnreadableError(f"{kind} is no number")

    def function(self, name: str) -> Tree:
        """\\sin^2 x, \\log_2 8, \\sin 2x \\cos x: the argument ends at a sign, a bracketed argument at its bracket."""
        base: Tree | None = None
        power: Tree | None = None
        if self.skip("_"):
            if name != "log":
                raise UnreadableError("an index of a function")
            base = self.argument()
        if self.skip("^"):
            power = self.exponent()
        if self.peek() in ("(", "[", "{"):
            argument = self.deeper(self.primary)
        else:
            argument = self.factor()
            while self.peek() in ("letter", "\\pi", "\\frac", "\\sqrt") or (
                self.peek() == "(" and argument[0] == "num"
            ):
                argument = self.juxtaposed(argument)
        tree: Tree = ("fn", name, argument)
        if base is not None:
            tree = ("div", ("fn", "ln", argument), ("fn", "ln", base))
        if power == ("neg", ("num", Fraction(1))):
            if name not in ("sin", "cos", "tan"):
                raise UnreadableError("an inverse function")
            return ("fn", f"arc{name}", argument)
        return tree if power is None else ("pow", tree, power)
