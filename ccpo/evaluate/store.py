"""The folder of an evaluation's results. It can be killed at any moment; the same command goes on with what is there.

    sessions.jsonl   first the settings, then one line for each thing that was played, appended as it ends: questions, texts, verdicts
    result.json      all numbers, written whole at the end; a run that was interrupted and resumed writes the same as one that was not
    run.lock         who works here now

A line has a ``kind``: settings; session (with its replays); shuffle (a session's replays with a role's turns exchanged); single (one
agent's answer); dropped (``of`` which kind, and ``why``: tried again when the command is given again).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccpo.config import ConfigError
from ccpo.evaluate import EvaluationError
from ccpo.evaluate.sessions import Key, Record
from ccpo.run.json_file import Damaged, parsed, read_object, write_atomic
from ccpo.run.lock import Held, run_lock

FORMAT = 1
SESSIONS, RESULT = "sessions.jsonl", "result.json"
ENTRY = {"source": str, "index": int, "question": str, "values": list}
"""Of every question in a result."""
SETTINGS, SESSION, SHUFFLED, SINGLE, DROPPED = "settings", "session", "shuffle", "single", "dropped"


class Store:
    """What was played so far. ``records``: kind -> key -> line. ``dropped``: kind -> key -> (kind of failure, text)."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.records: dict[str, dict[Key, Record]] = {SESSION: {}, SHUFFLED: {}, SINGLE: {}}
        self.dropped: dict[str, dict[Key, str]] = {SESSION: {}, SHUFFLED: {}, SINGLE: {}}

    def add(self, kind: str, record: Record) -> None:
        """Keep what was played."""
        self._write({"kind": kind, **record})
        self._keep(kind, record)

    def drop(self, kind: str, key: Key, failure: str, why: str) -> None:
        """Note what could not be played. ``failure``: one of few words, for counting."""
        (source, index), number = key
        record = {"of": kind, "source": source, "index": index, "session": number, "failure": failure, "why": why}
        self._write({"kind": DROPPED, **record})
        self._keep(DROPPED, record)

    def _keep(self, kind: str, record: Record) -> None:
        key = (str(record["source"]), int(record["index"])), int(record["session"])
        if kind == DROPPED:
            self.dropped[record["of"]][key] = str(record["failure"])
        else:
            self.records[kind][key] = record
            self.dropped[kind].pop(key, None)

    def _write(self, line: Mapping[str, Any]) -> None:
        first = {"kind": SETTINGS, "format": FORMAT, "settings": self.settings}
        try:
            with self.path.open(
                "ab"
            ) as stream:  # closed: whole in the system's hands, so a killed process loses nothing
                for part in (line,) if stream.tell() else (first, line):
                    stream.write(json.dumps(part).encode() + b"\n")
        except OSError as error:
            raise EvaluationError(
                f"{self.path} cannot be written ({error.strerror}): what was played until then is kept; mend that and give the command again"
            ) from None

    def _read(self) -> None:
        """Take in the file. Raises EvaluationError where it is of another configuration, or not ours."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # the last line was being written when the process was killed, or the disk was full
            with self.path.open("rb+") as stream:
                stream.truncate(whole)
        lines = content[:whole].split(b"\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                found = parsed(line)
                kind = found.pop("kind")
                if number > 1:
                    self._keep(kind, found)
                elif kind != SETTINGS:
                    raise KeyError
                else:
                    theirs, version = found["settings"], found["format"]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise EvaluationError(
                    f"{self.path}, line {number} is not as this command writes it: the file is damaged or another program's; choose another --out"
                ) from None
            if number == 1:
                self._same(theirs, version)

    def _same(self, theirs: Any, version: Any) -> None:
        if version != FORMAT:
            raise EvaluationError(
                f"{self.path} has format {version!r}, this version writes {FORMAT}: choose another --out"
            )
        if differing := differences(theirs, self.settings):
            listed = "; ".join(f"{name} is {there} there, {here} here" for name, there, here in differing)
            raise EvaluationError(
                f"{self.path.parent} holds an evaluation with other settings, and the two must not be mixed: {listed}. Choose another --out, or "
                "set them back to go on"
            )


@contextmanager
def opened(folder: Path, settings: Mapping[str, Any]) -> Iterator[Store]:
    """The folder, held until the block is left; it is made if it is missing.

    Raises EvaluationError: another process works there, it cannot be written, or what it holds has other settings.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise EvaluationError(f"--out {folder} is a file: name a folder")
    try:
        with run_lock(folder):
            store = Store(folder / SESSIONS, settings)
            store._read()
            yield store
    except Held as error:
        raise EvaluationError(
            f"--out {folder} is in use: {error.holder} works there, and two at once would mix their results. Wait for it, or choose another --out"
        ) from None
    except ConfigError as error:
        raise EvaluationError(f"--out {folder} cannot be used: {'; '.join(error.problems)}") from None


def differences(theirs: Any, ours: Any, name: str = "") -> list[tuple[str, str, str]]:
    """(dotted name, theirs, ours) of all leaves that differ."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        keys = dict.fromkeys([*theirs, *ours])
        return [
            found
            for key in keys
            for found in differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if theirs == ours else [(name, _shown(theirs), _shown(ours))]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    path = Path(folder) / RESULT
    write_atomic(path, json.dumps(result, indent=1, sort_keys=False) + "\n")
    return path


def read_result(place: Path) -> dict[str, Any]:
    """The numbers of an evaluation: a folder, or its result.json. Raises EvaluationError."""
    path = Path(place)
    path = path / RESULT if path.is_dir() else path
    if not path.exists():
        raise EvaluationError(
            f"{path} does not exist: an evaluation writes it when it is complete; give its command again to go on"
        )
    try:
        found = read_object(path, {"format": int, "settings": dict, "questions": list, "measures": dict})
    except Damaged as error:
        raise EvaluationError(f"{path.parent}: {error}") from None
    if found["format"] != FORMAT:
        raise EvaluationError(f"{path} has format {found['format']}, this version reads {FORMAT}: evaluate anew")
    if wrong := _wrong_part(found):
        raise EvaluationError(f"{path} is not as an evaluation writes it ({wrong}): it was changed; evaluate anew")
    return found


def _wrong_part(result: Mapping[str, Any]) -> str | None:
    """The first part of a result that readers cannot rely on."""
    settings = result["settings"]
    data = settings.get("data")
    if any(type(settings.get(name)) is not int for name in ("k", "seed")):
        return "settings"
    if not isinstance(data, dict) or any(type(data.get(name)) is not str for name in ("file", "sha256")):
        return "settings.data"
    seen: set[tuple[str, int]] = set()
    for number, entry in enumerate(result["questions"]):
        if not isinstance(entry, dict) or any(type(entry.get(name)) is not kind for name, kind in ENTRY.items()):
            return f"question {number}"
        if not all(value is None or _is_value(value) for value in entry["values"]):
            return f"the values of question {number}"
        if (key := (entry["source"], entry["index"])) in seen:
            return f"question {number} stands there twice"
        seen.add(key)
    return None


def _is_value(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
