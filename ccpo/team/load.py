"""A team from its name, a package path or a file; its settings; its prompts.

dyad, vote                      the built-in ones
my_package.teams:Debate         a class that can be imported
path/to/debate.py:Debate        a class in a file; prompts may stand in debate.yaml beside it
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ccpo.prompts import PromptError, Prompts
from ccpo.team.session import Team, TeamError
from ccpo.user_code import UserCodeError, module_of

BUILT_IN = {"dyad": "ccpo.team.dyad:Dyad", "vote": "ccpo.team.vote:Vote"}


def team_class(reference: str) -> type[Team]:
    """The class that ``reference`` names. Raises TeamError when there is none, or it is no team."""
    where, _, name = BUILT_IN.get(reference, reference).rpartition(":")
    if not where or not name.isidentifier():
        near = difflib.get_close_matches(reference, BUILT_IN, n=1)
        raise TeamError(
            f"{reference!r} names no team: "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"set {', '.join(BUILT_IN)}, "
            "package.module:Class, or path/to/file.py:Class"
        )
    try:
        module = module_of(where, "team")
    except UserCodeError as error:
        raise TeamError(str(error)) from error
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, Team)):
        teams = [
            key
            for key, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, Team)
            and value is not Team
            and value.__module__ == module.__name__
        ]
        what = "is no subclass of ccpo.team.Team" if found is not None else "does not exist"
        raise TeamError(f"{name} {what} in {where}; teams there: {', '.join(teams) or 'none'}")
    if not inspect.iscoroutinefunction(found.play) or found.play is Team.play:
        raise TeamError(f"{name} in {where} has no program: define `async def play(self, s)`")
    return found


def settings_class(cls: type[Team]) -> type[Team] | None:
    """The class if it has settings (it is a dataclass with fields), else None."""
    return cls if is_dataclass(cls) and fields(cls) else None


def prompt_sets(cls: type[Team]) -> dict[str, Any]:
    """Set name -> plain data: the team's own, or those of the YAML file beside its module."""
    if cls.prompts is not None:
        if not isinstance(cls.prompts, Mapping):
            raise PromptError(
                f"{cls.__name__}.prompts is {cls.prompts!r}: it must map names to sets, each of which maps roles to templates"
            )
        return {str(name): chosen for name, chosen in cls.prompts.items()}
    for base in cls.__mro__:
        source = inspect.getsourcefile(base) if base not in (Team, object) else None
        beside = Path(source).with_suffix(".yaml") if source else None
        if beside and beside.is_file():
            return _yaml(beside)
    return {}


def prompts_of(cls: type[Team], chosen: Any, setting: str = "ccpo.prompts") -> Prompts:
    """The prompts that a setting chooses for a team.

    Args:
        cls: the team.
        chosen: name of one of the team's sets; ``file.yaml`` or ``file.yaml:name``; or the set itself (role -> templates).

    Raises:
        PromptError: there is no such set, or it is malformed.
    """
    if isinstance(chosen, Mapping):
        return Prompts.parse("of ccpo.prompts", chosen)
    sets, name = prompt_sets(cls), str(chosen)
    path, _, part = name.partition(":")
    if path.endswith((".yaml", ".yml")):
        if not Path(path).expanduser().is_file():
            raise PromptError(f"{setting} is {name!r}: there is no file {path}")
        sets, name = _yaml(Path(path).expanduser()), part
        if not name and len(sets) == 1:
            name = next(iter(sets))
    if name not in sets:
        near = difflib.get_close_matches(name, sets, n=1)
        raise PromptError(
            f"{setting} is {name!r}: "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"{cls.__name__} has the prompts {', '.join(sets) or 'none'}; choose one, or give path/to/prompts.yaml:NAME, or the templates"
        )
    return Prompts.parse(name, sets[name])


@lru_cache(maxsize=32)
def _read(path: Path, stamp: float) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:  # the method alone needs none
        raise PromptError(f"{path} is YAML, which needs a package to be read: pip install pyyaml") from None
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from None


def _yaml(path: Path) -> dict[str, Any]:
    data = _read(path, path.stat().st_mtime)
    if not isinstance(data, Mapping):
        raise PromptError(f"{path} must map names to sets of prompts, each of which maps roles to templates")
    return {str(name): chosen for name, chosen in data.items()}
