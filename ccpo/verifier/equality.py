"""Whether two answers are the same: exactly where they are rational, else to hundreds of digits at a few points.

Two expressions are equal if they agree at POINTS random points, and there to SURE digits: no simplification that can take for ever, and no
tolerance that a near miss passes. Source: our construction (Schwartz-Zippel for expressions); limits are in docs/verifier.md.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from fractions import Fraction
from math import comb, factorial

from ccpo.verifier.latex import Tree, UnreadableError

DIGITS = 40  # of the first look
SURE = 400  # of the second
POINTS = 4
MAX_BITS = 20_000  # of a number on the way: 2^{4950} is an answer in MATH
MAX_FACTORIAL = 2_000
MAX_ITEMS = 24

# --- exact ------------------------------------------------------------------------------------------------------------


def exact(tree: Tree) -> Fraction | None:
    """The rational value of a number's tree; None if it is not rational, or has letters. Raises UnreadableError if it has no value."""
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind in ("const", "var", "inf", "deg"):
        return None
    values = [exact(part) for part in tree[1:] if isinstance(part, tuple)]
    if any(value is None for value in values):
        return None
    a, b = values[0], values[-1]
    if kind == "neg":
        return -a
    if kind == "add":
        return _small(a + b)
    if kind == "mul":
        return _small(a * b)
    if kind == "div":
        if b == 0:
            raise UnreadableError("division by zero")
        return _small(a / b)
    if kind == "pow":
        return _power(a, b)
    if kind == "root":
        return None if b.denominator != 1 or b < 1 else _root(a, int(b))
    if kind == "fact":
        if a.denominator != 1 or not 0 <= a <= MAX_FACTORIAL:
            raise UnreadableError("a factorial out of reach")
        return Fraction(factorial(int(a)))
    if kind == "binom":
        if a.denominator != 1 or b.denominator != 1 or not 0 <= b <= MAX_FACTORIAL or not 0 <= a <= 10**9:
            raise UnreadableError("a binomial out of reach")
        return _small(Fraction(comb(int(a), int(b))))
    if kind == "fn" and tree[1] in ("abs", "floor", "ceil"):
        return {"abs": abs(a), "floor": Fraction(a.__floor__()), "ceil": Fraction(a.__ceil__())}[tree[1]]
    return None


def _small(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise UnreadableError("a number out of reach")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    if base == 0 and exponent <= 0:
        raise UnreadableError("a power of zero")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and bits * abs(exponent) > MAX_BITS + bits:
        raise UnreadableError("a power out of reach")
    return _small(base ** int(exponent % 2 if base == -1 else 1 if base == 1 else exponent))


def _root(value: Fraction, degree: int) -> Fraction | None:
    """Of a perfect power; None of anything else."""
    if value < 0 or degree > 64:
        return None
    parts = []
    for part in (value.numerator, value.denominator):
        low, high = 0, 1 << (part.bit_length() // degree + 1)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if middle**degree < part else (low, middle)
        if low**degree != part:
            return None
        parts.append(low)
    return Fraction(*parts)


# --- to many digits ---------------------------------------------------------------------------------------------------


def letters(tree: object) -> frozenset[str]:
    """The variables of a tree."""
    if not isinstance(tree, tuple):
        return frozenset()
    if len(tree) == 2 and tree[0] == "var":
        return frozenset((tree[1],))
    return frozenset().union(*map(letters, tree))


def _value(tree: Tree, point: dict[str, object], mp) -> object:
    """The complex value at ``point``. Raises UnreadableError where there is none within reach."""
    kind = tree[0]
    if kind == "num":
        return mp.mpf(tree[1].numerator) / tree[1].denominator
    if kind == "const":
        return {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1)}[tree[1]] * 1
    if kind == "var":
        return point[tree[1]]
    if kind in ("inf", "deg"):
        raise UnreadableError("no number")
    if kind in ("fact", "binom"):
        whole = exact(tree)
        if whole is None:
            raise UnreadableError("of a number that is not whole")
        return mp.mpf(whole.numerator)
    if kind == "fn" and tree[2][0] == "deg":
        values = [_value(tree[2][1], point, mp) * mp.pi / 180]
    else:
        values = [_value(part, point, mp) for part in tree[1:] if isinstance(part, tuple)]
    a, b = values[0], values[-1]
    try:
        if kind == "neg":
            return -a
        if kind == "add":
            return a + b
        if kind == "mul":
            return _reachable(a * b, mp)
        if kind == "div":
            return _reachable(a / b, mp)
        if kind == "root":
            if b == 3 and mp.im(a) == 0 and mp.re(a) < 0:
                return -mp.root(-a, 3)
            return _reachable(mp.power(a, 1 / b), mp)
        if kind == "pow":
            if a == 0:
                if mp.re(b) <= 0:
                    raise UnreadableError("a power of zero")
                return mp.mpf(0)
            if abs(b) * (1 + abs(mp.log(abs(a)))) > MAX_BITS:
                raise UnreadableError("a power out of reach")
            return _reachable(mp.power(a, b), mp)
        if abs(a) > 10**9 and tree[1] not in ("abs", "ln", "log"):
            raise UnreadableError("an argument out of reach")
        return _function(tree[1], a, mp)
    except (ZeroDivisionError, ValueError, OverflowError) as error:
        raise UnreadableError(str(error)) from error


def _function(name: str, x: object, mp) -> object:
    if name == "abs":
        return abs(x)
    if name in ("floor", "ceil"):
        return getattr(mp, name)(mp.re(x))
    if name == "log":  # base 10 in school, e at university: only equal to another log
        return mp.log(x) / mp.log(10)
    if name == "exp" and abs(x) > MAX_BITS:
        raise UnreadableError("a power out of reach")
    return getattr(mp, {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "ln"}.get(name, name))(x)


def _reachable(value: object, mp) -> object:
    if value != 0 and abs(mp.mag(value)) > MAX_BITS:
        raise UnreadableError("a number out of reach")
    return value


def _points(names: Sequence[str], mp) -> list[dict[str, object]]:
    """The same points for every call: a verdict does not depend on chance. Signs vary, so that sqrt(x^2) is not x."""
    rng = random.Random(f"ccpo {' '.join(names)}")
    return [
        {name: rng.choice((-1, 1)) * (mp.mpf(rng.randrange(10**30, 4 * 10**30)) / 10**30) for name in names}
        for _ in range(POINTS if names else 1)
    ]


_LOCAL = threading.local()  # a context of mpmath's changes its precision while it works: one for each thread


def _context(digits: int):
    from mpmath import MPContext

    contexts = _LOCAL.__dict__.setdefault("contexts", {})
    if digits not in contexts:
        contexts[digits] = MPContext()
        contexts[digits].dps = digits
    return contexts[digits]


def equal_numbers(a: Tree, b: Tree) -> bool:
    """Whether two numbers, or expressions, are equal. Raises UnreadableError where one has no value."""
    if _signed_infinity(a) is not None or _signed_infinity(b) is not None:
        return _signed_infinity(a) == _signed_infinity(b)
    x, y = exact(a), exact(b)
    if x is not None and y is not None:
        return x == y
    names = sorted(letters(a) | letters(b))
    for digits in (DIGITS, SURE):
        mp = _context(digits + 20)
        for point in _points(names, mp):
            p, q = _value(a, point, mp), _value(b, point, mp)
            if p != q and abs(p - q) > mp.mpf(10) ** -digits * max(1, abs(p)):
                return False
    return True


def _signed_infinity(tree: Tree) -> int | None:
    sign = 1
    while tree[0] == "neg":
        tree, sign = tree[1], -sign
    return sign if tree == ("inf",) else None


# --- answers ----------------------------------------------------------------------------------------------------------


def settled(tree: Tree) -> Tree:
    """What an answer with relations in it means: an equation whose sides are all equal is its value, x < 5 is an interval.

    Raises UnreadableError for a false equation, and for a relation that is no answer.
    """
    kind = tree[0]
    if kind == "chain":
        return _chain(tree[1], tuple(map(settled, tree[2])))
    if kind == "named":
        inner = settled(tree[2])
        if tree[1] in letters(inner):
            raise UnreadableError(f"{tree[1]} is said to be something with {tree[1]} in it")
        return ("named", tree[1], inner)
    if kind in ("list", "union", "ratio"):
        return (kind, tuple(map(settled, tree[1])))
    if kind == "group":
        return (*tree[:3], tuple(map(settled, tree[3])))
    if kind == "value" and _signed_infinity(tree[1]) is None and not letters(tree[1]) and exact(tree[1]) is None:
        _value(tree[1], {}, _context(DIGITS))  # it has one
    return tree


def _chain(operators: tuple[str, ...], sides: tuple[Tree, ...]) -> Tree:
    if set(operators) == {"="}:
        if any(side[0] not in ("value", "based") for side in sides):
            raise UnreadableError("an equation of no numbers")
        if all(same(side, sides[-1]) for side in sides[:-1]):
            return sides[-1]
        if len(sides) == 2 and letters(sides) and all(side[0] == "value" and side[2] is None for side in sides):
            return ("equation", sides[0][1], sides[1][1])
        raise UnreadableError("the sides of the equation are not equal")
    if any(side[0] != "value" for side in sides):
        raise UnreadableError("a relation of no numbers")
    if all(operator in (">", ">=") for operator in operators):
        operators, sides = tuple({">": "<", ">=": "<="}[op] for op in reversed(operators)), sides[::-1]
    if not all(operator in ("<", "<=") for operator in operators):
        if operators == ("!=",):
            return ("relation", operators, sides)
        raise UnreadableError("a relation that is no answer")
    unknown = [at for at, side in enumerate(sides) if letters(side)]
    if (
        len(unknown) == 1
        and sides[unknown[0]][1][0] == "var"
        and len(sides) <= 3
        and (len(sides) == 2 or unknown == [1])
    ):
        at, infinite = unknown[0], ("value", ("inf",), None)
        low, opened = (sides[at - 1], operators[at - 1]) if at else (("value", ("neg", ("inf",)), None), "<")
        high, closed = (sides[at + 1], operators[at]) if at + 1 < len(sides) else (infinite, "<")
        return ("group", "(" if opened == "<" else "[", ")" if closed == "<" else "]", (low, high))
    return ("relation", operators, sides)


def same(a: Tree, b: Tree) -> bool:
    """Whether two settled answers are the same. Symmetric. Raises UnreadableError where a number has no value."""
    if a[0] == "named" or b[0] == "named":
        return _same_named(a, b)
    if a[0] == "equation" or b[0] == "equation":
        return a[0] == b[0] and _same_equation(a, b)
    if "text" in (a[0], b[0]):
        return None is not _spelled(a) == _spelled(b)
    if "based" in (a[0], b[0]):
        return _same_based(a, b)
    if a[0] == "value" == b[0]:
        return _same_value(a, b)
    if a[0] == "relation" == b[0]:
        return a[1] == b[1] and _in_order(a[2], b[2])
    if _unordered(a) is not None and _unordered(b) is not None:
        return _in_any_order(_unordered(a), _unordered(b))
    if {a[0], b[0]} == {"union", "list"}:  # x < 2 or x > 3
        return all(part[0] == "group" and part[1] != "{" for part in a[1] + b[1]) and _in_any_order(a[1], b[1])
    if a[0] != b[0]:
        return False
    if a[0] == "group":
        return a[1:3] == b[1:3] and _in_order(a[3], b[3])
    if a[0] == "ratio":
        return _in_order(a[1], b[1])
    if a[0] == "union":
        return _in_any_order(a[1], b[1])
    if a[0] == "matrix":
        rows = zip(a[1], b[1], strict=False)
        return len(a[1]) == len(b[1]) and all(len(x) == len(y) and all(map(equal_numbers, x, y)) for x, y in rows)
    return False


def _in_order(a: Sequence[Tree], b: Sequence[Tree]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def _in_any_order(a: Sequence[Tree], b: Sequence[Tree]) -> bool:
    if len(a) != len(b) or len(a) > MAX_ITEMS:
        return False
    left = list(b)
    for item in a:
        found = next((at for at, other in enumerate(left) if same(item, other)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _unordered(tree: Tree) -> tuple[Tree, ...] | None:
    """Of a list or a set: 1, 2 is {1, 2}."""
    if tree[0] == "list":
        return tree[1]
    return tree[3] if tree[0] == "group" and tree[1] == "{" else None


def _same_named(a: Tree, b: Tree) -> bool:
    if a[0] == b[0]:
        if a[1] == b[1]:
            return same(a[2], b[2])
        sides = [_as_equation(tree) for tree in (a, b)]
        return None not in sides and bool(letters(a[2]) or letters(b[2])) and _same_equation(*sides)
    named, other = (a, b) if a[0] == "named" else (b, a)
    if other[0] == "equation":
        equation = _as_equation(named)
        return equation is not None and _same_equation(equation, other)
    return same(named[2], other)


def _as_equation(named: Tree) -> Tree | None:
    inner = named[2]
    return ("equation", ("var", named[1]), inner[1]) if inner[0] == "value" and inner[2] is None else None


def _same_equation(a: Tree, b: Tree) -> bool:
    """Whether left - right of one is a constant times left - right of the other: they have the same solutions."""
    f, g = (("add", tree[1], ("neg", tree[2])) for tree in (a, b))
    names = sorted(letters(f))
    if names != sorted(letters(g)):
        return False
    for digits in (DIGITS, SURE):
        mp = _context(digits + 20)
        ratios = []
        for point in _points(names, mp):
            p, q = _value(f, point, mp), _value(g, point, mp)
            if min(abs(p), abs(q)) < mp.mpf(10) ** (-digits // 2):
                return False
            ratios.append(p / q)
        if any(abs(ratio - ratios[0]) > mp.mpf(10) ** -digits * abs(ratios[0]) for ratio in ratios):
            return False
    return True


def _spelled(tree: Tree) -> tuple[str, ...] | None:
    """A text, or letters side by side, as words: single letters keep their case."""
    if tree[0] == "text":
        words = tree[1]
    elif tree[0] == "value" and tree[2] is None:
        joined = _joined(tree[1])
        words = (joined,) if joined else ()
    else:
        return None
    return tuple(word if len(word) == 1 else word.casefold() for word in words) or None


def _joined(tree: Tree) -> str:
    if tree[0] == "var":
        return tree[1]
    if tree[0] == "const" and tree[1] in "ei":
        return tree[1]
    if tree[0] == "mul":
        left, right = _joined(tree[1]), _joined(tree[2])
        return left + right if left and right else ""
    return ""


def _same_based(a: Tree, b: Tree) -> bool:
    """The base may be left out of the answer to a question that names it: 1001 is 1001_3."""
    if a[0] == b[0]:
        return a[2] == b[2] and _digits(a) == _digits(b)
    based, other = (a, b) if a[0] == "based" else (b, a)
    value = exact(other[1]) if other[0] == "value" and other[2] is None else None
    return value is not None and value.denominator == 1 and _digits(based) == str(value)


def _digits(based: Tree) -> str:
    sign = "-" if based[1].startswith("-") else ""
    return sign + (based[1].lstrip("-").lstrip("0") or "0")


def _same_value(a: Tree, b: Tree) -> bool:
    """A unit may be left out; two that are stated are one. 20 % is 20 (the question asked for percent) and 0.2."""
    units = {a[2], b[2]} - {None}
    if len(units) > 1:
        return False
    if equal_numbers(a[1], b[1]):
        return True
    if units == {"%"} and None in (a[2], b[2]):
        x, y = (("div", t[1], ("num", Fraction(100))) if t[2] == "%" else t[1] for t in (a, b))
        return equal_numbers(x, y)
    return False
