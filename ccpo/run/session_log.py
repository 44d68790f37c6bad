"""sessions.jsonl: what was said, for people: all validation sessions and a few of every training step, one JSON line each.

Bounded, and the same after a kill and a resume as without: what stays of a step is decided by its number alone. When the file would grow
beyond its bound, the sessions of every 2nd, 4th, 8th, ... step stay, and those of the first and of the last validation. Where one step or
validation is too large for its part, texts go before values do (`texts.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccpo.run.json_file import Damaged, append, open_file, parsed, write_atomic
from ccpo.run.run_log import KINDS
from ccpo.run.texts import has_texts, without_texts

TRAIN, VAL = KINDS
EVERY = "every"  # of the first line of a file that was thinned: steps that are multiples of this have stayed
BLOCK_SHARE = 4  # one step's or validation's sessions take at most this part of the file, so that the first and the last validation fit
SPARE = 8  # about this many more than twice those kept say that they may be: each decides alone, before it knows of the others
Block = tuple[int, str]  # step, kind


def rank(*parts: Any) -> float:
    """A number in [0, 1) that looks random and is the same in every process and run."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "big") / 2**48


def place_in_line(seed: int | None, prompt: tuple[str, int], session: int, step: int) -> tuple[int, float]:
    """Which of a training step's sessions are kept: those that are first in this order. First sessions of a prompt come first, since they
    have the replays that serve all of them."""
    return session, rank(seed, tuple(prompt), step)


def may_be_kept(keep: int, prompts: int, seed: int | None, prompt: tuple[str, int], session: int, step: int) -> bool:
    """Whether a training session is among those of which `keep` are kept, in a step of so many prompts."""
    each = math.ceil(keep / prompts)
    number, place = place_in_line(seed, prompt, session, step)
    return number < each and place < (2 * keep + SPARE) / (each * prompts)


def as_json(facts: Any) -> str:
    """A session's facts as one line of ASCII, whatever its texts hold; a number that is not finite becomes null."""
    return json.dumps(_finite(facts), default=str, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class SessionLog:
    """Lines ``{"step": int, "kind": "train" | "val", **session_facts, "credit": {role: float} or None, "advantage": the same, "likelihood":
    {"before": [float], "behind": float or None, "answer_advantage": the same} or None}``, see `sessions.py`; credit and advantage are those of the
    roles that spoke, None in validation. likelihood is what the rule of this name read: how likely the reference answer was before each turn, and
    behind the last one's chain; answer_advantage is what the tokens behind that chain got instead of the role's. Without texts: `texts.py`."""

    def __init__(self, path: Path, most_bytes: int, check_place: Callable[[], None]):
        """``check_place`` raises Moved when the run's folder is another one now (`RunLog`)."""
        self.path, self.most_bytes, self.check_place = Path(path), most_bytes, check_place
        self._sizes: Counter[Block] | None = None  # bytes of what the file holds; read when it is needed
        self._every = 1

    def rewind(self, step: int, validated: Collection[int]) -> None:
        """Forget the sessions after ``step``, and those of a validation that is not among the ``validated`` steps: it was not over. Also
        drops a half-written last line."""
        self.check_place()
        if not self.path.exists():
            return
        self._look()
        kept = {block for block in self._sizes if block[0] <= step and (block[1] == TRAIN or block[0] in validated)}
        self._rewrite(kept)

    def write(self, step: int, kind: str, sessions: Sequence[Mapping[str, Any]]) -> None:
        """Append the sessions of a step or validation, or as many as may be; in place of those that it had."""
        self.check_place()
        self._look()
        block = (step, kind)
        lines = self._fitting([{"step": step, "kind": kind, **facts} for facts in sessions])
        if not lines:
            return
        sizes = Counter({**self._sizes, block: sum(map(len, lines))})
        every = self._every
        while sum(sizes[one] for one in _kept(sizes, every)) > self.most_bytes - len(_header(every)):
            every *= 2
        kept = _kept(sizes, every)
        if kept == set(sizes) and block not in self._sizes:
            append(self.path, "".join(lines))
            self._sizes = sizes
        elif block in kept or kept != set(self._sizes):
            self._every = every
            self._rewrite(kept - {block}, lines if block in kept else [])

    def _fitting(self, entries: list[dict]) -> list[str]:
        """The lines of these entries in their order. Where they are too large for one step, texts stay for those that come first in an order that is
        the same each time, as many as fit; and where not even what is left of all fits, so do the sessions themselves."""
        lines = [as_json(entry) + "\n" for entry in entries]
        left = self.most_bytes // BLOCK_SHARE
        if sum(map(len, lines)) <= left:
            return lines
        bare = [
            min(line, as_json(without_texts(one)) + "\n", key=len) for line, one in zip(lines, entries, strict=True)
        ]
        names = [(entry["source"], entry["index"], entry["session"]) for entry in entries]
        order = sorted(range(len(lines)), key=lambda number: (rank(*names[number]), number))
        chosen: dict[int, str] = {}
        for number in order:
            if len(bare[number]) <= left:
                left -= len(bare[number])
                chosen[number] = bare[number]
        for number in order:
            texts = len(lines[number]) - len(bare[number])
            if number in chosen and texts <= left:
                left -= texts
                chosen[number] = lines[number]
        return [chosen[number] for number in sorted(chosen)]

    def _look(self) -> None:
        if self._sizes is not None:
            return
        self._measure()
        part = self.most_bytes // BLOCK_SHARE
        large = {block for block, size in self._sizes.items() if size > part}
        if large:  # from before the bound was lowered: else the ends alone could be more than the whole file
            found: dict[Block, list[dict]] = {block: [] for block in sorted(large)}
            for _, entry in _lines(self.path):
                if entry is not None and (block := (entry["step"], entry["kind"])) in large:
                    found[block].append(entry)
            self._rewrite(
                set(self._sizes) - large, [line for of_one in found.values() for line in self._fitting(of_one)]
            )
            self._measure()

    def _measure(self) -> None:
        self._sizes = Counter()
        for line, entry in _lines(self.path):
            if entry is not None:
                self._sizes[entry["step"], entry["kind"]] += len(line) + 1
            else:
                self._every = max(self._every, _every(line))

    def _rewrite(self, blocks: Collection[Block], lines: Sequence[str] = ()) -> None:
        """Write the file anew with the sessions of these blocks, and further lines."""
        found = (
            line.decode() + "\n"
            for line, entry in _lines(self.path)
            if entry is not None and (entry["step"], entry["kind"]) in blocks
        )
        write_atomic(self.path, "".join([_header(self._every), *found, *lines]))
        self._sizes = None


def _header(every: int) -> str:
    return json.dumps({EVERY: every}) + "\n" if every > 1 else ""


def _kept(blocks: Collection[Block], every: int) -> set[Block]:
    """Those that stay when every so many steps do."""
    validations = sorted(step for step, kind in blocks if kind == VAL)
    ends = {(step, VAL) for step in validations[:1] + validations[-1:]}
    return {block for block in blocks if block[0] % every == 0 or block in ends}


def read_sessions(path: Path, pick: Callable[[dict], dict | None] = lambda entry: entry) -> list[dict]:
    """All whole lines, by step, kind, source, index and number of the session; nothing where there is no file. What is no session is passed
    over. ``pick``: what is kept of each, with those names, or None: for who needs no texts, which are nearly all of it. Raises Damaged where
    the file cannot be read."""
    try:
        picked = (pick(entry) for _, entry in _lines(path) if entry is not None)
        found = [entry for entry in picked if entry is not None]
    except OSError as error:
        raise Damaged(
            f"{path} cannot be read ({error.strerror}), so what was said in this run is not known: make it readable, or move it away to do without"
        ) from None
    names = ("source", "index", "session")
    return sorted(found, key=lambda entry: (entry["step"], entry["kind"] == VAL, *(entry[name] for name in names)))


def _lines(path: Path) -> Iterator[tuple[bytes, dict | None]]:
    """Every line with its session; None where it is none: half written when the job was killed, or not ours."""
    if not Path(path).exists():
        return
    with open_file(path) as stream:
        for line in stream:
            line = line.rstrip(b"\n")
            try:
                found = parsed(line)
            except ValueError:
                found = None
            yield line, found if _is_session(found) else None


def _every(line: bytes) -> int:
    """What a first line says of a file that was thinned."""
    try:
        found = parsed(line)
    except ValueError:
        return 1
    every = found.get(EVERY) if isinstance(found, dict) and len(found) == 1 else None
    return every if type(every) is int and 0 < every < 2**62 and every & (every - 1) == 0 else 1


def _is_session(found: Any) -> bool:
    """Whether readers can rely on its shape."""
    shape = {"step": int, "kind": str, "source": str, "index": int, "session": int, "value": float}
    if not _has(found, {**shape, "turns": list, "replays": list}) or found["kind"] not in KINDS or found["step"] < 0:
        return False
    texts = has_texts(found)
    if not _has(found, {"question" if texts else "digest": str}):
        return False
    scores = [found.get(name) for name in ("credit", "advantage")]
    replays = found["replays"]
    return (
        _is_likelihood(found.get("likelihood"))
        and all(score is None or (isinstance(score, dict) and all(map(_is_number, score.values()))) for score in scores)
        and all(
            _has(replay, {"how": str, "role": str, "name": str, "value": float} | ({"turns": list} if texts else {}))
            for replay in replays
        )
        and all(
            _has(turn, {"role": str} | ({"text": str} if texts else {}))
            and (turn.get("reward") is None or _is_number(turn["reward"]))
            for turns in (found["turns"], *(replay["turns"] for replay in replays if texts))
            for turn in turns
        )
    )


def _is_likelihood(found: Any) -> bool:
    """Files from before there was one have none."""
    if found is None:
        return True
    if not _has(found, {"before": list}):
        return False
    others = (found.get(name) for name in ("behind", "answer_advantage"))
    return all(map(_is_number, found["before"])) and all(value is None or _is_number(value) for value in others)


def _has(found: Any, shape: Mapping[str, type]) -> bool:
    return isinstance(found, dict) and all(
        _is_number(found.get(name)) if kind is float else type(found.get(name)) is kind for name, kind in shape.items()
    )


def _is_number(value: Any) -> bool:
    """A finite one that is no larger than a float may be."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int of 400 digits
        return False
