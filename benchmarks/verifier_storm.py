"""Answers on which algebra never ends, from many threads, beside good answers that need algebra too: is any lost, wrong or late?

    .venv/bin/python benchmarks/verifier_storm.py --heavy 1000           about ten minutes on two cores

Through `ccpo.verifier.verify` alone. A verdict is worked out by one of a few child processes, each for one caller at a time, within
a limit (LIMIT seconds); who finds all of them busy waits, and that wait is not part of the limit. Three things are measured:

    service   one caller per child process, so that nobody waits: what an answer takes once a process is free for it
    storm     heavy answers from --threads threads, good ones from 8 more: what an answer takes with the wait
    before, after    good answers alone, one by one, and the memory and processes of the whole, before the storm and after

Late is a service above LIMIT, and in the storm a time above (answers in flight / child processes + 1) x LIMIT: what a fair queue
may take if all before it are heavy. Wrong is a good answer without its verdict, or a heavy one with a reward: none of them is the truth.
Exit status 0: none lost, none wrong, none late, and afterwards everything is as before.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import psutil
from evidence import ROOT, Evidence, quantile, table

from ccpo.verifier import verify

LIMIT = 1.6  # seconds: 1.4 for algebra, and 0.2 until a process that does not end by itself is given up
GOOD_THREADS = 8
MB = 1e6


# --- answers --------------------------------------------------------------------------------------------------------


HEAVY = {  # <2-9> is a number drawn anew for each answer, so that none is known already
    "tower of powers": "<2-9>^{<5-9>^{<7-9>}}+<1-99>",
    "factorial": "<20000-99999>!",
    "quotient of factorials": "\\frac{<20000-99999>!}{<20000-99999>!+1}",
    "power of a factorial": "(<200-999>!)^{<1000-9999>}",
    "binomial": "\\binom{<100000-999999>}{<20000-99999>}",
    "nested radicals": "+".join(4 * ["\\sqrt[<3-9>]{<2-99>+\\sqrt{<2-99>+\\sqrt{<2-99>}}}"]),
    "power of a sum of radicals": "\\left(" + "+".join(9 * ["\\sqrt{<2-9999>}"]) + "\\right)^{<20-90>}",
    "set of radicals": "\\{" + ",".join(12 * ["\\sqrt{<2-999>}+\\sqrt{<2-999>}"]) + "\\}",
    "giant polynomial": "(x+y+z+<2-9>)^{<40-90>}",
    "difference of polynomials": "(x+<2-9>)^{<300-999>}-(x-1)^{<300-999>}",
    "continued fraction": 5 * "\\frac{<1-9>}{x+" + "<2-9>" + 5 * "}",
    "product of sines": 8 * "\\sin(<2-99>x+<2-99>)\\cos(<2-99>x)",
    "power of tangents": "(\\sin x+\\cos x+\\tan <2-9>x)^{<20-90>}",
    "integral": "\\int_0^{1} \\frac{x^{<20-90>}}{\\sqrt{1+x^{<3-9>}}} dx",
    "long number to a power": "<1-9>" + 10 * "<10000-99999>" + "^{<1000-9999>}",
    "product of brackets": 50 * "((<2-9>+x))",
    "bars": 38 * "|" + "x+<1-99>" + 38 * "|",
}
TRUTHS = ("\\sqrt{3}", "x^2+1", "\\frac{\\pi}{4}")  # which none of them is


def heavy(dice: random.Random) -> tuple[str, str, str]:
    """Kind, answer and truth."""
    kind = dice.choice(list(HEAVY))
    answer = re.sub(r"<(\d+)-(\d+)>", lambda found: str(dice.randint(int(found[1]), int(found[2]))), HEAVY[kind])
    return kind, answer, dice.choice(TRUTHS)


def good(dice: random.Random) -> tuple[str, str, float]:
    """Answer, truth and reward of an ordinary answer on which strings and numbers do not decide."""
    a, b, c = dice.randint(2, 30), dice.randint(2, 30), dice.randint(2, 5)
    answer, truth, other = dice.choice(
        [
            (f"(x+{a})^2", f"x^2+{2 * a}x+{a * a}", f"x^2+{2 * a}x+{a * a + 1}"),
            (f"\\sqrt{{{a * c * c}}}", f"{c}\\sqrt{{{a}}}", f"{c + 1}\\sqrt{{{a}}}"),
            (f"\\frac{{{a}x+{a}}}{{{a * c}}}", f"\\frac{{x+1}}{{{c}}}", f"\\frac{{x+2}}{{{c}}}"),
            (f"{a}\\cdot 2^{{{c}}}+x", f"{a * 2**c}+x", f"{a * 2**c + 1}+x"),
            (f"({a}+x, {b}-y)", f"(x+{a}, -y+{b})", f"(x+{a + 1}, -y+{b})"),
        ]
    )
    right = dice.random() < 0.5
    return answer, truth if right else other, float(right)


# --- calls ----------------------------------------------------------------------------------------------------------


class Calls:
    """Every call with its time, what was in flight when it began, and whether it came back as it should."""

    def __init__(self) -> None:
        self.flight, self.lock, self.rows = 0, threading.Lock(), []

    def ask(self, kind: str, answer: str, truth: str, reward: float) -> None:
        with self.lock:
            self.flight += 1
            flight = self.flight
        began, verdict, error = time.monotonic(), None, None
        try:
            verdict = verify(f"So it is \\boxed{{{answer}}}.", truth)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        seconds = time.monotonic() - began
        wrong = verdict is None or verdict.reward != reward or (kind == "good" and not verdict.parsed)
        with self.lock:
            self.flight -= 1
            row = {"kind": kind, "seconds": seconds, "flight": flight, "wrong": wrong, "error": error}
            self.rows.append(row | ({"answer": answer, "truth": truth, "verdict": str(verdict)} if wrong else {}))

    def run(self, asks: Iterable[Callable[[], None]], threads: int) -> list[threading.Thread]:
        """Work through ``asks`` from some threads; returns them, started."""
        left, lock = iter(asks), threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    ask = next(left, None)
                if ask is None:
                    return
                ask()

        started = [threading.Thread(target=work) for _ in range(threads)]
        for thread in started:
            thread.start()
        return started


def one_by_one(seed: str, count: int) -> list[float]:
    calls, dice = Calls(), random.Random(seed)
    for _ in range(count):
        calls.ask("good", *good(dice))
    return [row["seconds"] for row in calls.rows]


def state() -> dict:
    """Of this process and its children."""
    me = psutil.Process()
    below = me.children(recursive=True)
    uss = {}
    for process in (me, *below):
        try:
            uss[process.pid] = process.memory_full_info().uss
        except psutil.Error:
            continue
    return {
        "own_MB": round(uss[me.pid] / MB, 1),
        "children": len(me.children()),
        "processes": 1 + len(below),
        "children_MB": round(sum(value for pid, value in uss.items() if pid != me.pid) / MB, 1),
        "files": me.num_fds(),
        "threads": me.num_threads(),
    }


class Peak(threading.Thread):
    """Looks at the processes while the storm lasts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over, self.most, self.seen = threading.Event(), defaultdict(float), set()

    def run(self) -> None:
        while not self.over.wait(1.0):
            for name, value in state().items():
                self.most[name] = max(self.most[name], value)
            self.seen |= {process.pid for process in psutil.Process().children()}


# --- the storm ------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heavy", type=int, default=1000, help="heavy answers in the storm (default %(default)s)")
    parser.add_argument("--threads", type=int, default=32, help="that bring them (default %(default)s)")
    parser.add_argument(
        "--service", type=int, default=100, help="heavy answers of which nobody waits (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "verifier_storm.json", help="JSON file")
    options = parser.parse_args()
    evidence = Evidence(vars(options))
    dice = random.Random(options.seed)

    busy = Calls()  # starts every child process there may be, and finds their number
    for thread in busy.run([partial(busy.ask, "good", *good(dice)) for _ in range(64)], 32):
        thread.join()
    wait_for(lambda: state()["threads"] <= 2, 120)
    children = state()["children"]
    alone, before = one_by_one("before", 60), state()
    print(f"{children} child processes; good answers one by one: {spread(alone)}", flush=True)

    service = Calls()
    for thread in service.run(heavy_asks(service, dice, options.service), max(1, children)):
        thread.join()
    print(f"service of {options.service} heavy answers: {spread(times(service.rows))}", flush=True)

    storm, peak, began, over = Calls(), Peak(), time.monotonic(), threading.Event()
    peak.start()
    workers = storm.run(heavy_asks(storm, dice, options.heavy), options.threads)
    stream = storm.run(good_asks(storm, over), GOOD_THREADS)
    for thread in workers:
        thread.join()
    seconds = time.monotonic() - began
    over.set()
    for thread in stream:
        thread.join()
    peak.over.set()
    peak.join()

    wait_for(lambda: state()["threads"] <= before["threads"], 30)
    time.sleep(5)
    settled, after = one_by_one("after", 60), state()
    figures = judge(children, service.rows, storm.rows, options)
    figures |= {
        "storm_seconds": round(seconds, 1),
        "answers_a_second": round(len(storm.rows) / seconds, 2),
        "good_one_by_one": {"before": spread(alone), "after": spread(settled)},
        "before": before,
        "most": dict(peak.most),
        "children_seen": len(peak.seen),
        "after": after,
        "as_before": after["children"] <= before["children"]
        and after["threads"] <= before["threads"]
        and after["files"] <= before["files"] + 2
        and after["own_MB"] <= before["own_MB"] * 1.05 + 2
        and after["children_MB"] <= before["children_MB"] * 1.1 + 5,
    }
    figures["holds"] = figures["as_before"] and not (
        figures["lost"] or figures["wrong"] or figures["late_in_service"] or figures["late_in_storm"]
    )
    show(figures)
    evidence.write(options.result, figures)
    return 0 if figures["holds"] else 1


def heavy_asks(calls: Calls, dice: random.Random, count: int) -> list[Callable[[], None]]:
    return [partial(calls.ask, *heavy(dice), 0.0) for _ in range(count)]


def good_asks(calls: Calls, over: threading.Event) -> Iterable[Callable[[], None]]:
    dice = random.Random("good")
    while not over.is_set():
        yield partial(calls.ask, "good", *good(dice))


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.2)


def times(rows: list[dict], kind: str | None = None) -> list[float]:
    return [row["seconds"] for row in rows if kind is None or row["kind"] == kind]


def spread(seconds: list[float]) -> dict:
    named = {"median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
    return {name: round(quantile(seconds, q) or 0.0, 3) for name, q in named.items()} | {"count": len(seconds)}


def judge(children: int, service: list[dict], storm: list[dict], options: argparse.Namespace) -> dict:
    kinds = {}
    for kind in HEAVY:
        taken = times(service + storm, kind)
        alone = times(service, kind)
        kinds[kind] = {"count": len(taken), "service_median": round(quantile(alone, 0.5), 3) if alone else None}
    late = [row for row in storm if row["seconds"] > (row["flight"] / max(1, children) + 1) * LIMIT]
    rows = service + storm
    asked = options.service + options.heavy
    wrong = [row for row in rows if row["wrong"]]
    return {
        "limit_seconds": LIMIT,
        "children": children,
        "heavy": options.heavy,
        "good": len(times(storm, "good")),
        "lost": asked - sum(row["kind"] != "good" for row in rows) + sum(row["error"] is not None for row in rows),
        "wrong": len(wrong),
        "wrong_examples": wrong[:5],
        "late_in_service": sum(row["seconds"] > LIMIT for row in service),
        "late_in_storm": len(late),
        "late_most_seconds": round(max((row["seconds"] for row in late), default=0.0), 2),
        "service": spread(times(service)),
        "storm_heavy": spread([row["seconds"] for row in storm if row["kind"] != "good"]),
        "storm_good": spread(times(storm, "good")),
        "most_in_flight": max(row["flight"] for row in storm),
        "kinds": kinds,
    }


def show(figures: dict) -> None:
    print()
    print(
        table(
            [
                ["heavy answers", "count", "service, median s"],
                *([kind, *row.values()] for kind, row in figures["kinds"].items()),
            ]
        )
    )
    print()
    named = ("service", "storm_heavy", "storm_good")
    print(
        table(
            [["seconds", "median", "p90", "p99", "most", "count"], *([name, *figures[name].values()] for name in named)]
        )
    )
    print(f"good answers one by one: {figures['good_one_by_one']}")
    print(f"before {figures['before']}\nmost   {figures['most']}\nafter  {figures['after']}")
    print(f"{figures['answers_a_second']} answers a second; children started and seen: {figures['children_seen']}")
    for row in figures["wrong_examples"]:
        print(f"wrong: {row}")
    verdict = {name: figures[name] for name in ("lost", "wrong", "late_in_service", "late_in_storm", "as_before")}
    print(f"{verdict}: {'holds' if figures['holds'] else 'DOES NOT HOLD'}")


if __name__ == "__main__":
    sys.exit(main())
