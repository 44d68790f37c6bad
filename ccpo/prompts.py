"""Prompt templates: what each role is told, by the fields that it hears.

A set of prompts maps roles to templates. A template is a chat, ``{system: text, user: text}`` or ``[{role: ..., content: ...}, ...]``, with
named fields in braces. A role may have several: the one whose fields are exactly those that it hears is used, so that a role can be asked
with and without what another says. A key with ``*`` is a pattern (``voter_*``); a name that is spelt out wins over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from string import Formatter
from typing import Any

Messages = list[dict[str, str]]
Template = tuple[tuple[str, str], ...]
CHAT_ROLES = ("system", "user", "assistant")


class PromptError(ValueError):
    """Prompts that cannot be used; the text says what is wrong and what to set."""


@dataclass(frozen=True)
class Prompts:
    """One set of prompts. ``templates``: role or pattern -> templates by their fields."""

    name: str
    templates: Mapping[str, Mapping[frozenset[str], Template]]

    @classmethod
    def parse(cls, name: str, data: Any) -> Prompts:
        """From plain data, as it stands in YAML. Raises PromptError."""
        if not isinstance(data, Mapping) or not data:
            raise PromptError(f"prompts {name!r} are {data!r}: they must map roles to templates")
        found = {}
        for role, listed in data.items():
            where = f"prompts {name!r}, role {role}"
            if isinstance(listed, Mapping) or not isinstance(listed, Sequence) or isinstance(listed, str):
                listed = [listed]
            elif listed and all(isinstance(part, Mapping) and set(part) == {"role", "content"} for part in listed):
                listed = [listed]  # a single template, written as messages
            templates = {}
            for part in listed:
                template = _template(part, where)
                fields = fields_of(template, where)
                if fields in templates:
                    raise PromptError(
                        f"{where}: two templates have the fields {', '.join(sorted(fields))}; which one is meant?"
                    )
                templates[fields] = template
            found[str(role)] = templates
        return cls(name, found)

    def of(self, role: str) -> Mapping[frozenset[str], Template]:
        """The role's templates by their fields; empty if it has none."""
        return matching(self.templates, role) or {}

    def messages(self, role: str, fields: Mapping[str, str]) -> Messages:
        """The filled template. Raises PromptError where the role has none with exactly these fields."""
        template = self.of(role).get(frozenset(fields))
        if template is None:
            raise PromptError(self.missing(role, frozenset(fields)))
        return render(template, **fields)

    def missing(self, role: str, fields: frozenset[str]) -> str:
        have = "; ".join("{" + ", ".join(sorted(known)) + "}" for known in self.of(role)) or "none"
        return (
            f"prompts {self.name!r} have no template for {role} that hears {{{', '.join(sorted(fields))}}}: its templates have the fields "
            f"{have}. Add one with exactly those"
        )


def matching(table: Mapping[str, Any], role: str) -> Any:
    """The entry of a role: its own, else the first pattern that fits; None without one."""
    if role in table:
        return table[role]
    return next((value for key, value in table.items() if "*" in key and fnmatchcase(role, key)), None)


def _template(data: Any, where: str) -> Template:
    if isinstance(data, Mapping):
        parts = list(data.items())
    elif isinstance(data, Sequence) and not isinstance(data, str):
        parts = [
            (part["role"], part["content"])
            if isinstance(part, Mapping) and set(part) == {"role", "content"}
            else (None, None)
            for part in data
        ]
    else:
        parts = [(None, None)]
    if not parts or not all(chat in CHAT_ROLES and isinstance(text, str) for chat, text in parts):
        raise PromptError(
            f"{where}: a template is {{system: text, user: text}} or a list of {{role, content}} with roles {', '.join(CHAT_ROLES)}, "
            f"not {data!r}"
        )
    return tuple(parts)


def fields_of(template: Template, where: str = "template") -> frozenset[str]:
    """Names of a template's fields. Raises PromptError for braces that are none."""
    found = set()
    for _, text in template:
        try:
            parsed = [part for part in Formatter().parse(text) if part[1] is not None]
            names = [name for _, name, _, _ in parsed]
        except ValueError as error:
            raise PromptError(
                f"{where}: {error} in {text!r}; braces that are meant as text are doubled: {{{{ }}}}"
            ) from None
        if formatted := [name for _, name, how, conversion in parsed if how or conversion]:
            raise PromptError(
                f"{where}: the field {formatted[0]} has a format in {text!r}; fields are inserted as they are"
            )
        if bad := [name for name in names if not name.isidentifier()]:
            raise PromptError(
                f"{where}: {{{bad[0]}}} is no field in {text!r}; braces that are meant as text are doubled: {{{{ }}}}"
            )
        found |= set(names)
    return frozenset(found)


def with_persona(messages: Messages, persona: str) -> Messages:
    """The messages with ``persona`` added to the system message, which is made if there is none."""
    if not persona:
        return messages
    system = next((message for message in messages if message["role"] == "system"), None)
    if system is None:
        return [{"role": "system", "content": persona}, *messages]
    return [{**m, "content": f"{m['content']} {persona}"} if m is system else m for m in messages]


def render(template: Template, **fields: str) -> Messages:
    """Fill a template. Field values are inserted verbatim: braces in them are text, never fields.

    Returns the chat messages ``[{"role", "content"}, ...]``. Raises KeyError naming the field that is missing.
    """
    return [{"role": role, "content": _fill(text, fields)} for role, text in template]


def _fill(text: str, fields: dict[str, str]) -> str:
    parts = []
    for literal, name, _, _ in Formatter().parse(text):
        parts.append(literal)
        if name is not None:
            if name not in fields:
                raise KeyError(f"template needs the field {name!r}, got {sorted(fields)}")
            parts.append(fields[name])
    return "".join(parts)
