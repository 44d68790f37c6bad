"""Words after a number: units, magnitudes, and words that make another value of it."""

from __future__ import annotations

_UNITS = """
cm centimeter centimeters centimetre centimetres
mm millimeter millimeters millimetre millimetres
m meter meters metre metres
km kilometer kilometers kilometre kilometres
in inch inches
ft foot feet
yd yard yards
mi mile miles
mph
g gram grams gramme grammes
kg kilogram kilograms kilo kilos
mg milligram milligrams
lb lbs pound pounds
oz ounce ounces
l liter liters litre litres
ml milliliter milliliters millilitre millilitres
gal gallon gallons
s sec secs second seconds
min mins minute minutes
h hr hrs hour hours
day days
week weeks
month months
yr yrs year years
dollar dollars usd
cent cents
euro euros eur
degree degrees
radian radians rad
acre acres
am a.m.
pm p.m.
"""
_CANONICAL = {word: line.split()[0] for line in _UNITS.strip().splitlines() for word in line.split()}
UNIT_NAMES = frozenset(_CANONICAL)

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
MAGNITUDES = {
    name + plural: value
    for name, value in {
        "dozen": 12,
        "hundred": 100,
        "thousand": 1_000,
        "lakh": 10**5,
        "million": 10**6,
        "crore": 10**7,
        "billion": 10**9,
        "trillion": 10**12,
        "quadrillion": 10**15,
    }.items()
    for plural in ("", "s")
} | {"k": 1_000, "bn": 10**9, "mn": 10**6, "mln": 10**6, "mil": 10**6, "M": 10**6, "B": 10**9}

_PARTS = "half third quarter fourth fifth sixth seventh eighth ninth tenth hundredth thousandth millionth billionth"
CHANGING = frozenset(
    f"{_ONES} {_TENS} {_PARTS} {' '.join(part + 's' for part in _PARTS.split())} halves gross score "
    "maybe perhaps possibly probably supposedly ish etc th st nd rd out off "
    "not no nor neither never none isn't wasn't aren't ain't or but nor except without excluding unless if "
    "wrong false incorrect untrue impossible rejected eliminated "
    "plus minus times over by divided multiplied subtracted added increased decreased modulo mod base choose "
    "squared square-root cubed factorial root power raised exponent log logarithm inverse reciprocal negative double twice thrice triple fold "
    "than least most about around approximately approx roughly nearly almost between to through until up "
    "infinity pi sqrt ln sin cos tan f".split()
)
"""Words that deny a number, join it to another one, or make another value of it."""


def unit_of(words: list[str], power: int = 1) -> str | None:
    """One spelling of a known unit, None for a noun that is none ("clips"). ``power``: an exponent after the words.

    Raises ValueError for a word that changes the value.
    """
    names = [word.casefold().rstrip(".,;:!") for word in words]
    names = [name if name in _CANONICAL or name not in ("a.m", "p.m") else name + "." for name in names]
    if power == 1 and len(names) > 1 and names[0] in ("sq", "square"):
        power, names = 2, names[1:]
    elif power == 1 and len(names) > 1 and names[0] in ("cu", "cubic"):
        power, names = 3, names[1:]
    elif power == 1 and len(names) > 1 and names[-1] in ("squared", "cubed") and names[-2] in _CANONICAL:
        power, names = (2 if names[-1] == "squared" else 3), names[:-1]
    for name in names:
        if name in CHANGING or name.endswith("n't") or (len(name) == 1 and name not in _CANONICAL):
            raise ValueError(f"{name!r} changes the value")
    known = [_CANONICAL[name] for name in names if name in _CANONICAL]
    if len(known) != 1 or len(names) != 1:
        return "/".join(known) if len(known) == len(names) and known else None
    return known[0] if power == 1 else f"{known[0]}^{power}"
