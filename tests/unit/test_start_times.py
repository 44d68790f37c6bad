"""Parts of a start: they add up to the whole, and the first step is one of them."""

from __future__ import annotations

import pytest

pytest.importorskip("verl")

from ccpo.verl_plugin import start_times  # noqa: E402


def test_parts_add_up_and_a_step_is_one_part(monkeypatch):
    clock = iter([30.0, 31.0, 40.0, 42.0, 45.0, 50.0])
    monkeypatch.setattr(start_times.time, "time", lambda: next(clock))
    times = start_times.StartTimes(checks=10.0, Ray=25.0)
    for part in (
        "the start",
        "the reading of the data",
        "the first step",
        "the rollout of step 1",
        "the save of step 1",
    ):
        times.mark(part)
    parts = times.parts()
    assert parts == {"checks": 15.0, "Ray": 5.0, "start": 1.0, "reading of the data": 9.0, "first step": 10.0}
    assert sum(parts.values()) == 50.0 - 10.0


def test_the_line_names_what_took_long():
    text = start_times.line({"checks": 12.0, "data": 0.1, "first step": 3.4})
    assert "16 s" in text and "checks 12" in text and "first step 3" in text and "data" not in text
