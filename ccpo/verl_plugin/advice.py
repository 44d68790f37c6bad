"""What Hydra refuses on a command line, in words that help: it stops at the first key that it does not know, and advises to add it with +."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException

from ccpo.verl_plugin.values import nearest, verls_defaults

OURS = "team.yaml"  # what every started file extends


def why_not(error: Exception, words: Sequence[str], configs: Path) -> str | None:
    """What is wrong with a command line, and what to write instead.

    Args:
        error: what Hydra raised while it composed the configuration.
        words: of the command line.
        configs: the folder of the started configuration, whose folders are its groups.

    Returns:
        None where the error is not about the command line.
    """
    groups, known = _groups(configs), _known(configs)
    if found := [text for word in words if (text := _no_section(word, known))]:
        return "\n".join(found)
    if isinstance(error, MissingConfigException):
        return _no_such_file(error, configs)
    found = [_unknown(word, known, groups) for word in words]
    # What a profile or a task adds is in neither list: a word that Hydra does not complain of is one only if it is near to another.
    said = str(error)
    named = [text for text in found if text and ("did you mean" in text or f"'{text.split(' is ')[0]}'" in said)]
    if named or any(found):
        return "\n".join(named or filter(None, found))
    if not isinstance(error, HydraException):
        return None
    return _in_short(error)


def unknown_groups(words: Sequence[str], configs: Path) -> list[str]:
    """Misspelt groups (profle=cpu) that a + or ++ carries past Hydra."""
    names = [match[1] for word in words if (match := re.match(r"\+{1,2}(\w+)=", word))]
    if not names:
        return []
    groups, known = _groups(configs), _known(configs)
    return [_misspelt(name, known, groups) for name in names if name not in known and _near_group(name, groups)]


def _groups(configs: Path) -> dict[str, list[str]]:
    """Group -> its choices."""
    folders = (path for path in configs.iterdir() if path.is_dir())
    return {path.name: sorted(choice.stem for choice in path.glob("*.yaml")) for path in sorted(folders)}


def _known(configs: Path) -> dict[str, Any]:
    """The settings that every job has, by section: verl's and ours."""
    ours = yaml.safe_load((configs / OURS).read_text())
    return {**verls_defaults(), "ccpo": ours["ccpo"], "seed": ours["seed"]}


def _no_such_file(error: MissingConfigException, configs: Path) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = [name for name in error.options or () if name]
    if not group:
        options = sorted(path.stem for path in configs.glob("ccpo*.yaml"))
        return f"there is no configuration {choice!r} (--config-name): {_did_you_mean(choice, options)}choose one of {', '.join(options)}"
    what = f"{group} is {choice!r}: there is no such {group}"
    if group in verls_defaults():  # a section, whose files are verl's own business
        return f"{what}: it is a section of settings; set {group}.KEY=VALUE"
    return f"{what}; {_did_you_mean(choice, options)}choose one of {', '.join(options)}"


def _no_section(word: str, known: Mapping[str, Any]) -> str | None:
    """A null, number or flag in place of a section that is a group of files as well: Hydra ends with a traceback."""
    match = re.fullmatch(r"\+{0,2}(\w+)=(.*)", word, re.DOTALL)
    if (
        match
        and isinstance(known.get(match[1]), Mapping)
        and re.fullmatch(r"null|true|false|-?[\d.]+|", match[2], re.I)
    ):
        return f"{word}: {match[1]} is a section of settings; set {match[1]}.KEY=VALUE"
    return None


def _unknown(word: str, known: Mapping[str, Any], groups: Mapping[str, list[str]]) -> str | None:
    """A plain or deleting override of a key that there is not; a + before one that there is."""
    match = re.match(r"([+~]{0,2})([^=@/+~]+)(=|$)", word)
    if not match or match[2].startswith(("-", "hydra")) or (not match[3] and match[1] != "~"):
        return None
    sign, name = match[1], match[2].strip()
    if name in groups and sign != "~":
        return f"{word}: {name} is a choice of files; leave out the {sign}" if sign else None
    there = name == "" or _is_there(name, known)
    if sign == "+" and there:
        return f"{word}: {name} is there already; leave out the +"
    if sign in ("+", "++") or there:
        return None
    return _misspelt(name, known, groups)


def _misspelt(name: str, known: Mapping[str, Any], groups: Mapping[str, list[str]]) -> str:
    if "." not in name and (group := _near_group(name, groups)) and not difflib.get_close_matches(name, known, 1, 0.9):
        return f"{name} is not a setting: did you mean {group} ({', '.join(groups[group])})?"
    return f"{name} is not a setting: {nearest(name, known)}"


def _near_group(name: str, groups: Mapping[str, list[str]]) -> str | None:
    return next(iter(difflib.get_close_matches(name, groups, n=1)), None)


def _is_there(name: str, known: Any) -> bool:
    for key in name.split("."):
        if not isinstance(known, Mapping):
            return False
        if not known:  # a section that takes any key
            return True
        if key not in known:
            return False
        known = known[key]
    return True


def _did_you_mean(name: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, options, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _in_short(error: Exception) -> str:
    """Hydra's own words, of which the later lines are about Hydra."""
    return "; ".join(_lines(error))


def _lines(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        yield from (line for line in lines[:2] if not line.startswith(("To append", "Either remove", "Or add")))
        error = error.__cause__
