"""The heaviest answers there are, from many threads, beside good answers: is any lost, wrong or late?

    .venv/bin/python benchmarks/verifier_storm.py --heavy 1000           about a minute on two cores

Through `ccpo.verifier.verify` alone. Half of the heavy answers are those on which computer algebra never ends (a simplifier takes
seconds or gigabytes for each), the other half those that cost a comparison by values the most: long, and equal to the truth or so close
to it that hundreds of digits are needed. Measured are:

    processor the time on a processor that a heavy answer takes
    service   one caller at a time, so that nobody waits: what it takes by the clock (other jobs may keep the machine busy)
    storm     heavy answers from --threads threads, good ones from 8 more: what an answer takes with the wait for the others, and for how
              long one more thread of the process, which only looks at the clock, is held up
    before, after    good answers one by one, and the memory and processes of the whole, before the storm and after

No answer may take more than LIMIT on a processor. Late is one that keeps its caller while this process works for more than (answers in
flight + 1) x LIMIT, a fair queue's time (work, not clock: what other jobs take of the machine is not the verifier's doing). Wrong is any
answer that does not get its verdict. Afterwards everything has to be as before, but for the readings of the last answers, which are kept
(KEPT_MB each). Exit status 0: none lost, none wrong, none late, and all as before.
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

LIMIT = 1.0  # seconds
KEPT_MB = 0.03  # what the readings of one long answer and its truth take; the last few thousand are kept
GOOD_THREADS = 8
MB = 1e6


# --- answers --------------------------------------------------------------------------------------------------------


FALSE = ("\\sqrt{3}", "x^2+1", "\\frac{\\pi}{4}")  # a truth that none of the first half is
ALGEBRA = {  # <2-9> is a number drawn anew for each answer, so that none is known already
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
VALUES = {  # answer, truth, reward; <n> is the same number in both
    "70 powers": (70 * "x^{x}+" + "<n>", "70x^{x}+<n>", 1.0),
    "70 powers, a near miss": (70 * "x^{x}+" + "<n>", "70x^{x}+<n>+\\frac{1}{10^{60}}", 0.0),
    "40 powers of powers": (40 * "x^{x^{y}}+" + "<n>", "40x^{x^{y}}+<n>", 1.0),
    "45 exponentials": (45 * "e^{999x}+" + "<n>", "45e^{999x}+<n>", 1.0),
    "40 ninth roots": (40 * "\\sqrt[9]{x}+" + "<n>", "40\\sqrt[9]{x}+<n>", 1.0),
    "60 factorials": (60 * "2000!+" + "<n>", "60\\cdot 2000!+<n>", 1.0),
    "30 equal sides": ("=".join(30 * ["<n>\\sin(x)^{x}"]), "<n>\\sin(x)^{x}", 1.0),
    "equation of 70 powers": (70 * "x^{z}+" + "<n>=y", "y=70x^{z}+<n>", 1.0),
    "set in reverse": (
        "\\{" + ",".join(f"\\sin(x^{{x}}+{i}<n>)" for i in range(10, 24)) + "\\}",
        "\\{" + ",".join(f"\\sin(x^{{x}}+{i}<n>)" for i in range(23, 9, -1)) + "\\}",
        1.0,
    ),
}


def heavy(dice: random.Random) -> tuple[str, str, str, float]:
    """Kind, answer, truth and reward."""
    n = str(dice.randint(100, 999))
    if dice.random() < 0.5:
        kind = dice.choice(list(ALGEBRA))
        answer = re.sub(r"<(\d+)-(\d+)>", lambda found: str(dice.randint(int(found[1]), int(found[2]))), ALGEBRA[kind])
        return kind, answer, dice.choice(FALSE), 0.0
    kind = dice.choice(list(VALUES))
    answer, truth, reward = VALUES[kind]
    return kind, answer.replace("<n>", n), truth.replace("<n>", n), reward


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
        began, used, spent = time.monotonic(), time.thread_time(), time.process_time()
        verdict = error = None
        try:
            verdict = verify(f"So it is \\boxed{{{answer}}}.", truth)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        seconds, used, spent = time.monotonic() - began, time.thread_time() - used, time.process_time() - spent
        wrong = verdict is None or verdict.reward != reward or (kind == "good" and not verdict.parsed)
        with self.lock:
            self.flight -= 1
            row = {
                "kind": kind,
                "seconds": seconds,
                "processor": used,
                "spent": spent,
                "flight": flight,
                "wrong": wrong,
                "error": error,
            }
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
        self.over, self.most = threading.Event(), defaultdict(float)

    def run(self) -> None:
        while not self.over.wait(1.0):
            for name, value in state().items():
                self.most[name] = max(self.most[name], value)


class Clock(threading.Thread):
    """A thread that wants to wake up every 10 ms: how much later it does is what an event loop of this process would wait."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over, self.late = threading.Event(), []

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            time.sleep(0.01)
            self.late.append(max(0.0, time.monotonic() - began - 0.01))


# --- the storm ------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heavy", type=int, default=1000, help="heavy answers in the storm (default %(default)s)")
    parser.add_argument("--threads", type=int, default=32, help="that bring them (default %(default)s)")
    parser.add_argument(
        "--service", type=int, default=300, help="heavy answers before it, one by one (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "verifier_storm.json", help="JSON file")
    options = parser.parse_args()
    evidence = Evidence(vars(options))
    dice = random.Random(options.seed)

    one_by_one("warm-up", 60)
    alone = one_by_one("before", 60)
    print(f"good answers one by one: {spread(alone)}", flush=True)

    service = Calls()
    for ask in heavy_asks(service, dice, options.service):
        ask()
    print(f"service of {options.service} heavy answers: {spread(times(service.rows))}", flush=True)
    before = state()

    storm, peak, clock, began, over = Calls(), Peak(), Clock(), time.monotonic(), threading.Event()
    peak.start()
    clock.start()
    workers = storm.run(heavy_asks(storm, dice, options.heavy), options.threads)
    stream = storm.run(good_asks(storm, over), GOOD_THREADS)
    for thread in workers:
        thread.join()
    seconds = time.monotonic() - began
    over.set()
    for thread in stream:
        thread.join()
    for watcher in (peak, clock):
        watcher.over.set()
        watcher.join()

    wait_for(lambda: state()["threads"] <= before["threads"], 30)
    time.sleep(5)
    settled, after = one_by_one("after", 60), state()
    figures = judge(service.rows, storm.rows, options)
    figures |= {
        "storm_seconds": round(seconds, 1),
        "answers_a_second": round(len(storm.rows) / seconds, 2),
        "good_one_by_one": {"before": spread(alone), "after": spread(settled)},
        "before": before,
        "most": dict(peak.most),
        "held_up": spread(clock.late),
        "after": after,
        "as_before": after["children"] <= before["children"]
        and after["threads"] <= before["threads"]
        and after["files"] <= before["files"] + 2
        and after["own_MB"] <= before["own_MB"] + 5 + KEPT_MB * options.heavy
        and after["children_MB"] <= before["children_MB"] * 1.1 + 5,
    }
    figures["holds"] = figures["as_before"] and not (
        figures["lost"] or figures["wrong"] or figures["over_the_limit"] or figures["late"]
    )
    show(figures)
    evidence.write(options.result, figures)
    return 0 if figures["holds"] else 1


def heavy_asks(calls: Calls, dice: random.Random, count: int) -> list[Callable[[], None]]:
    return [partial(calls.ask, *heavy(dice)) for _ in range(count)]


def good_asks(calls: Calls, over: threading.Event) -> Iterable[Callable[[], None]]:
    dice = random.Random("good")
    while not over.is_set():
        yield partial(calls.ask, "good", *good(dice))


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.2)


def times(rows: list[dict], kind: str | None = None, clock: str = "seconds") -> list[float]:
    return [row[clock] for row in rows if kind is None or row["kind"] == kind]


def spread(seconds: list[float]) -> dict:
    named = {"median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
    return {name: round(quantile(seconds, q) or 0.0, 3) for name, q in named.items()} | {"count": len(seconds)}


def judge(service: list[dict], storm: list[dict], options: argparse.Namespace) -> dict:
    rows, asked = service + storm, options.service + options.heavy
    kinds = {
        kind: {
            "count": len(times(rows, kind)),
            "processor_most": round(max(times(rows, kind, "processor"), default=0.0), 3),
        }
        for kind in (*ALGEBRA, *VALUES)
    }
    late = [row["seconds"] for row in storm if row["spent"] > (row["flight"] + 1) * LIMIT]
    wrong = [row for row in rows if row["wrong"]]
    return {
        "limit_seconds": LIMIT,
        "heavy": options.heavy,
        "good": len(times(storm, "good")),
        "lost": asked - sum(row["kind"] != "good" for row in rows) + sum(row["error"] is not None for row in rows),
        "wrong": len(wrong),
        "wrong_examples": wrong[:5],
        "over_the_limit": sum(row["processor"] > LIMIT for row in rows),
        "late": len(late),
        "processor": spread([row["processor"] for row in rows if row["kind"] != "good"]),
        "service": spread(times(service)),
        "storm_heavy": spread([row["seconds"] for row in storm if row["kind"] != "good"]),
        "storm_good": spread(times(storm, "good")),
        "storm_spent": spread([row["spent"] for row in storm]),
        "most_in_flight": max(row["flight"] for row in storm),
        "kinds": kinds,
    }


def show(figures: dict) -> None:
    print()
    print(
        table(
            [
                ["heavy answers", "count", "processor, most s"],
                *([kind, *row.values()] for kind, row in figures["kinds"].items()),
            ]
        )
    )
    print()
    named = ("processor", "service", "storm_heavy", "storm_good", "storm_spent", "held_up")
    print(
        table(
            [["seconds", "median", "p90", "p99", "most", "count"], *([name, *figures[name].values()] for name in named)]
        )
    )
    print(f"good answers one by one: {figures['good_one_by_one']}")
    print(f"before {figures['before']}\nmost   {figures['most']}\nafter  {figures['after']}")
    print(f"{figures['answers_a_second']} answers a second")
    for row in figures["wrong_examples"]:
        print(f"wrong: {row}")
    verdict = {name: figures[name] for name in ("lost", "wrong", "over_the_limit", "late", "as_before")}
    print(f"{verdict}: {'holds' if figures['holds'] else 'DOES NOT HOLD'}")


if __name__ == "__main__":
    sys.exit(main())
