"""What a dataset must be, for those who write one and for those who train on it: its rows, and the manifest beside its files.

A row is as in ``data_preprocess.schema``; a user's own may have further columns. Nothing here needs verl; parquet needs pyarrow.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccpo.verifier import ANSWER_TYPES, LETTERS, OWN, truth_problem

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LONGEST_TEXT = 100_000
"""Characters of a question or an option. More is a file that was read as one field, not a question."""
LONGEST_NAME = 200
"""Characters of a data source: it becomes part of metrics' names."""
LARGEST_INDEX = 2**63 - 1

# --- rows -------------------------------------------------------------------------------------------------------------


def row_problem(row: Mapping[str, Any], split: str) -> str | None:
    """What keeps a row of ``split`` from being asked and judged, or None."""
    if reason := prompt_problem(row.get("prompt")):
        return reason
    if reason := name_problem(row.get("data_source")):
        return f"data_source {reason}"
    truth, info = section(row.get("reward_model")).get("ground_truth"), section(row.get("extra_info"))
    kind, options = info.get("answer_type"), info.get("options")
    if truth is None or (truth == "" and kind != OWN):
        return "no ground truth: without reward_model.ground_truth nothing can be verified"
    if reason := index_problem(info.get("index")):
        return reason
    if not isinstance(kind, str) or kind not in (*ANSWER_TYPES, OWN):
        return f"extra_info.answer_type is {shown(kind)}: the verifier knows {', '.join(ANSWER_TYPES)}; {OWN} is for a reward of your own"
    if info.get("split") != split:
        return f"extra_info.split is {shown(info.get('split'))}, expected {split!r}: agent loops tell training from validation by it"
    if reason := options_problem(options, kind):
        return f"extra_info.options: {reason}"
    if truth != "" and (reason := text_problem(truth)):
        return f"reward_model.ground_truth {reason}"
    if kind != OWN and (reason := truth_problem(truth, kind, tuple(options or ()))):
        return f"reward_model.ground_truth: {reason}"
    return None


def prompt_problem(prompt: Any) -> str | None:
    """Why a prompt is not one question."""
    if not isinstance(prompt, list) or not prompt or not section(prompt[-1]).get("content"):
        return "no prompt: every row needs prompt=[{role: user, content: question}]"
    if len(prompt) > 1 or prompt[0].get("role") != "user":
        roles = ", ".join(shown(section(message).get("role")) for message in prompt[:5])
        return (
            f"the prompt has messages of {roles}, where one of 'user' is expected: the team's own prompts say the rest, and other messages "
            "would be ignored"
        )
    reason = text_problem(prompt[0]["content"])
    return f"the question {reason}" if reason else None


def text_problem(text: Any, longest: int = LONGEST_TEXT) -> str | None:
    """Why ``text`` is none that a model can be shown; reads on from the name of what holds it."""
    if not isinstance(text, str):
        return f"is {shown(text)}, not text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"is no valid Unicode text: {error.reason} at character {error.start} (bytes that are not UTF-8)"
    if "\0" in text:
        return f"holds a NUL at character {text.index(chr(0))}"
    if not any(character.isprintable() and not character.isspace() for character in text):
        return f"is empty or blank: {shown(text)}"
    return f"has {len(text)} characters, more than {longest}" if len(text) > longest else None


def name_problem(name: Any) -> str | None:
    """Why ``name`` is none for a data source."""
    if reason := text_problem(name, LONGEST_NAME):
        return reason
    return (
        None if name == name.strip() and name.isprintable() else f"is {shown(name)}: one line without blanks around it"
    )


def index_problem(index: Any) -> str | None:
    """Why ``index`` is no row number."""
    if index is None:
        return "no extra_info.index: samples are seeded and rows ordered by it"
    if type(index) is not int or not 0 <= index <= LARGEST_INDEX:
        return f"extra_info.index is {shown(index)}, not a whole number from 0 on: samples are seeded and rows ordered by it"
    return None


def options_problem(options: Any, answer_type: str) -> str | None:
    """Why ``options`` are none for a row of ``answer_type``. None and an empty list are no options."""
    if options is None or options == []:
        return None
    if not isinstance(options, list):
        return f"{shown(options)} is no list of texts"
    if answer_type != "option":
        return f"they belong to answer_type 'option', not {answer_type!r}"
    if not 2 <= len(options) <= len(LETTERS):
        return f"there are {len(options)}, but a choice has 2 to {len(LETTERS)}, for the letters {LETTERS}"
    for letter, option in zip(LETTERS, options, strict=False):
        if reason := text_problem(option):
            return f"option {letter} {reason}"
    return None


def row_note(row: Mapping[str, Any]) -> str | None:
    """What is odd about a good row: it can be judged, but its source may be damaged."""
    question, info = row["prompt"][-1]["content"], section(row.get("extra_info"))
    odd = next((character for character in question if ord(character) < 32 and character not in "\t\n\r"), None)
    if odd is not None:
        return f"the question holds the control character {odd!r}, often what is left of a backslash and a letter"
    texts = ["".join(option.casefold().split()) for option in info.get("options") or ()]
    right = LETTERS.find(row["reward_model"]["ground_truth"].strip().upper()) if texts else -1
    twins = [LETTERS[i] for i, text in enumerate(texts) if i != right and text == texts[right]]
    if twins:
        return f"option {twins[0]} has the text of {LETTERS[right]}, the right one: only one of the two letters is rewarded"
    return None


def id_problem(seen: dict[tuple[str, int], str], row: Mapping[str, Any], place: str) -> str | None:
    """Why a good row's id is not its own; ``seen``: where the ids of its split were met first, which this adds to."""
    key = (row["data_source"], row["extra_info"]["index"])
    first = seen.setdefault(key, place)
    if first == place:
        return None
    return f"data_source {key[0]!r} and index {key[1]} are those of {first}, too: a row is known, seeded and ordered by the two"


def section(value: Any) -> dict[str, Any]:
    """``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def shown(value: Any) -> str:
    """``value`` in an error message: short, whatever it is."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}... ({len(text)} characters)"


# --- files ------------------------------------------------------------------------------------------------------------


def parquet_rows(content: bytes) -> list[dict[str, Any] | ValueError]:
    """Every row of a parquet file; a ValueError in the place of one that cannot be decoded.

    Raises an exception of pyarrow's if the file cannot be read at all, ValueError if a column stands twice in it.
    """
    import pyarrow.parquet as parquet

    table = parquet.ParquetFile(io.BytesIO(content)).read()
    names = table.column_names
    if len(set(names)) < len(names):
        raise ValueError(f"column {shown(next(name for name in names if names.count(name) > 1))} stands twice")
    try:
        return table.to_pylist()
    except Exception:  # one bad string spoils the whole conversion, so find it
        return [_decoded(table.slice(number, 1)) for number in range(table.num_rows)]


def _decoded(row: Any) -> dict[str, Any] | ValueError:
    values = {}
    for name, column in zip(row.column_names, row.columns, strict=True):
        try:
            values[name] = column.to_pylist()[0]
        except UnicodeDecodeError as error:
            return ValueError(f"column {shown(name)} is not valid UTF-8 ({error.reason} at byte {error.start})")
        except Exception as error:  # a date beyond Python's, for example: pyarrow has many types for it
            return ValueError(f"column {shown(name)} cannot be read ({error})")
    return values


def sha256(content: bytes) -> str:
    """SHA-256 as hex."""
    return hashlib.sha256(content).hexdigest()


def unfinished(folder: Path) -> Path:
    """Where the old files of ``folder`` are while it is replaced on a system that cannot swap two folders at once."""
    return folder.parent / f".{folder.name}.ccpo-old"  # of /, which nothing replaces, a name that nothing has


def read_files(paths: Sequence[Path]) -> dict[Path, bytes | str]:
    """Contents of files, or what is wrong with one: it cannot be read, or is not as the manifest beside it says.

    Files of one folder are of one state of it, even if a data command replaces the folder meanwhile. Files without a manifest are a
    user's own, and as they should be.
    """
    folders = {path.parent for path in paths}
    for _ in range(20):  # a second at most
        manifests = {folder: _bytes(folder / MANIFEST) for folder in folders}
        contents = {path: _bytes(path) for path in paths}
        same = all(_bytes(folder / MANIFEST) == manifest for folder, manifest in manifests.items())
        if same and not any(unfinished(folder.resolve()).exists() and not folder.exists() for folder in folders):
            break
        time.sleep(0.05)  # replaced while it was read
    return {
        path: content if isinstance(content, str) else _changed(path, content, manifests[path.parent]) or content
        for path, content in contents.items()
    }


def _bytes(path: Path) -> bytes | str:
    """Content of a file, or why there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        old = unfinished(path.parent.resolve())
        if (old / path.name).exists():
            return (
                f"{path} does not exist, because a command that was replacing its folder was ended: run that command again, or rename {old} "
                f"to {old.with_name(path.parent.resolve().name)}"
            )
        return f"{path} does not exist"
    except (OSError, ValueError) as error:  # a NUL in its name
        return f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"


def _changed(path: Path, content: bytes, manifest: bytes | str) -> str | None:
    """Why ``content`` is not what a data command wrote there; None if it is, or if no manifest of ours speaks of it."""
    if isinstance(manifest, str):
        return None
    beside = path.parent / MANIFEST
    try:
        facts = json.loads(manifest)
        if not isinstance(facts, dict) or "format_version" not in facts:
            return None  # another program's
        if facts["format_version"] != FORMAT_VERSION:
            return (
                f"{beside} has format_version {shown(facts['format_version'])}, this version reads {FORMAT_VERSION}: make the data anew with "
                "data_preprocess"
            )
        wanted = facts["files"][path.name]["sha256"] if path.name in facts["files"] else sha256(content)
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{beside} is damaged, so {path.name} cannot be checked: make the data anew with data_preprocess, or delete the manifest"
    if wanted == sha256(content):
        return None
    return (
        f"{path} is not the file that {beside} describes (its SHA-256 differs): it was edited or is damaged; make it anew with the "
        f"manifest's command ({shown(facts.get('command'))}), or delete the manifest if it was edited on purpose"
    )
