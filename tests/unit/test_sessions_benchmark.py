"""The requests that benchmarks/sessions.py finds in a validation's dump: turns of a session in order, replays of some sessions or all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import sessions  # noqa: E402


@pytest.mark.parametrize("replayed, kept", [(None, [1, 1]), (1, [1, 0]), (0, [0, 0])])
def test_sessions_of_a_dump(tmp_path, replayed, kept):
    def row(uid, replay, said):
        return {"uid": uid, "replay": replay, "input": "What is the last digit of (3+4)*5?", "output": said}

    rows = [row(f"u_{n}_{i}", None, "7" * (i + 1)) for n in range(2) for i in range(2)]
    rows += [row(f"u_{n}_2", 0, "7") for n in range(2)]
    (tmp_path / "2.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = sessions.read(tmp_path / "2.jsonl", str(ROOT / "data_preprocess" / "last_digit_model"), replayed)
    assert [len(session["turns"]) for session in found] == [2, 2]
    assert [len(session["replays"]) for session in found] == kept
    first, second = (tokens for _, tokens in found[0]["turns"])
    assert second == first + 1
