"""Time what a step's credit costs: `ccpo.step.compute_advantages` with its metrics, on one core, for a dyad and for votes.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/credit.py                    about two minutes

Dyad: sessions of two turns, 8 a prompt, with the replays that each rule needs (2 of the 8 sessions carry a shared removal; for the
published rules all do). Votes: 8 sessions a prompt, easy and hard prompts, up to six wrong labels of falling popularity, 4 % abstentions.
A row is one turn. Every number is the least of --repeat runs, each on columns that nothing was computed from before, and with the
history of a step. Process time is that of all threads, so that other jobs disturb it little. ``drawn``: prompts with more combinations
of distinct ballots than are enumerated (`ccpo.credit.recombine`). Last, what it takes to make columns of records, and of a trainer's rows.
Exit status 0: every rule stayed below a second of process time; ten voters are reported alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from evidence import ROOT, Evidence, table

from ccpo.credit.base import CreditConfig
from ccpo.credit.recombine import EXACT_LIMIT
from ccpo.plurality import TIES, values_of_codes, values_without
from ccpo.step import StepSettings, compute_advantages
from ccpo.types import ABSTAINED, INTERVENTIONS, REMOVE, RESAMPLE, RIGHT, Sessions

N = 8  # sessions a prompt
BAR = 1.0  # seconds
SIBLINGS, CHAIN = "removal siblings", "likelihood behind the chain"
DYAD_RULES = (
    *("counterfactual", "shared", "shared_history", "removal", SIBLINGS, "shrinkage", "random_reward", "resampling"),
    *("likelihood", CHAIN, "paper_v1", "event_v2"),
)
VOTE_RULES = ("leave_one_out", "resampled", "marginal", "shapley", "own_correctness", "shared", "removal")
OPTIONS = {SIBLINGS: {"siblings": True}, CHAIN: {"reference_after": "chain"}}
"""What a name says beside its rule, the first word."""
VOTERS = (3, 7, 10)
BARRED = "dyad", "3 voters", "7 voters"
RECORDS = 100_000  # rows of the records, at most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="turns of the dyad (default %(default)s)")
    parser.add_argument("--vote-rows", type=int, default=240_000, help="ballots (default %(default)s)")
    parser.add_argument(
        "--voters", type=int, nargs="*", default=list(VOTERS), help="sizes of the vote (default 3 7 10)"
    )
    parser.add_argument("--rules", nargs="*", help="only these rules")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, the least counts (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "credit.json", help="JSON file of the result")
    options = parser.parse_args()
    evidence = Evidence(vars(options))
    results = [*dyads(options), *votes(options)]
    records = list(record_times(options))
    head = ["team", "rule", "tie", "process s", "wall s", "rows/s", "drawn"]
    names = ("team", "rule", "tie", "process_seconds", "wall_seconds", "rows_per_second", "drawn")
    print(table([head, *([row[name] for name in names] for row in results)]))
    print()
    print(table([["made", "rows", "process s", "rows/s"], *(list(row.values()) for row in records)]))
    fast = all(row["process_seconds"] < BAR for row in results if row["barred"])
    print(f"\n{'every rule below' if fast else 'NOT every rule below'} {BAR:.0f} s of process time")
    evidence.write(options.out.resolve(), {"fast": fast, "credit": results, "records": records})
    return 0 if fast else 1


def dyads(options: argparse.Namespace) -> Iterator[dict]:
    for rule in DYAD_RULES:
        if not options.rules or rule in options.rules:
            sessions = dyad(options.rows // 2, rule, np.random.default_rng(options.seed))
            config = CreditConfig(rule.split()[0], **OPTIONS.get(rule, {}))
            settings = StepSettings(config, first="think", also_spoken=("reason",))
            yield figures("dyad", rule, None, sessions, settings, options.repeat)


def votes(options: argparse.Namespace) -> Iterator[dict]:
    for voters in options.voters:
        for tie in TIES:
            sessions = vote(options.vote_rows // voters, voters, tie, np.random.default_rng(options.seed))
            for rule in VOTE_RULES:
                if not options.rules or rule in options.rules:
                    settings = StepSettings(CreditConfig(rule))
                    yield figures(f"{voters} voters", rule, tie, sessions, settings, options.repeat)


def figures(team: str, rule: str, tie: str | None, sessions: Sessions, settings: StepSettings, repeat: int) -> dict:
    state = compute_advantages(fresh(sessions), settings).state
    runs = [seconds(compute_advantages, fresh(sessions), settings, state) for _ in range(repeat)]
    process, rows = min(run[0] for run in runs), len(sessions.role_T)  # a row is a turn
    return {
        "team": team,
        "rule": rule,
        "tie": tie,
        "rows": rows,
        "process_seconds": round(process, 3),
        "wall_seconds": round(min(run[1] for run in runs), 3),
        "rows_per_second": round(rows / process),
        "drawn": int(drawn(sessions)) if rule == "resampled" else None,
        "barred": team in BARRED,
    }


def drawn(sessions: Sessions) -> int:
    """Prompts that `resampled` draws for; sessions come prompt by prompt here."""
    groups = np.split(sessions.ballot_SV, np.arange(N, len(sessions), N))
    return sum(np.prod([len(set(column)) for column in group.T.tolist()]) > EXACT_LIMIT for group in groups)


def seconds(call: Callable, *arguments: object) -> tuple[float, float]:
    """(process, wall) seconds of one call."""
    process, wall = time.process_time(), time.perf_counter()
    call(*arguments)
    return time.process_time() - process, time.perf_counter() - wall


def fresh(sessions: Sessions) -> Sessions:
    """The same columns, of which nothing is remembered (`cached_property`)."""
    return replace(sessions)


# --- columns --------------------------------------------------------------------------------------------------------


def columns(voters: int, value_S: np.ndarray, roles: tuple[str, ...], replays: list[tuple], **more) -> Sessions:
    """Sessions of N a prompt in which every role speaks once. ``replays``: (how, role, (K,) sessions, (K,) values, shared)."""
    count = len(value_S)
    session_P = np.concatenate([np.zeros(0, int), *(rows for _, _, rows, _, _ in replays)])
    order = np.argsort(session_P, kind="stable")

    def column(values: list, dtype) -> np.ndarray:
        parts = [np.broadcast_to(v, len(rows)) for v, (_, _, rows, _, _) in zip(values, replays, strict=True)]
        return np.concatenate([np.zeros(0), *parts]).astype(dtype)[order]

    return Sessions(
        roles=roles,
        prompts=tuple(range(-(-count // N))),
        prompt_S=np.arange(count) // N,
        session_S=np.arange(count) % N,
        value_S=value_S,
        turn_offset=np.arange(count + 1) * voters,
        role_T=np.tile(np.arange(voters), count),
        truncated_T=np.zeros(count * voters, bool),
        parsed_T=np.ones(count * voters, np.int8),
        leaked_T=np.zeros(count * voters, bool),
        cut_T=np.zeros(count * voters, bool),
        replay_offset=np.concatenate([[0], np.cumsum(np.bincount(session_P, minlength=count))]),
        how_P=column([INTERVENTIONS.index(how) for how, *_ in replays], int),
        of_P=column([role for _, role, *_ in replays], int),
        value_P=column([value for _, _, _, value, _ in replays], float),
        shared_P=column([shared for *_, shared in replays], bool),
        decoded_P=column([int(shared) for *_, shared in replays], int),
        truncated_P=np.zeros(len(session_P), bool),
        **more,
    )


def dyad(count: int, rule: str, draw: np.random.Generator) -> Sessions:
    """Sessions of Think and Reason, worth 1 or 0 by the prompt's difficulty, with the replays of this rule."""
    prompt_S = np.arange(count) // N
    ease_G = draw.beta(0.8, 0.8, prompt_S[-1] + 1)
    value_S = (draw.random(count) < ease_G[prompt_S]).astype(float)
    rows = np.arange(count)
    carriers = rows if rule in ("paper_v1", "event_v2") else rows[rows % N < 2]
    alone = (draw.random(len(carriers)) < 0.8 * ease_G[prompt_S[carriers]]).astype(float)
    replays = [(REMOVE, 0, carriers, alone, True)]
    if rule in ("removal", SIBLINGS):
        replays.append((REMOVE, 1, rows, np.zeros(count), False))  # nobody answers
    if rule == "resampling":
        again = (draw.random(count) < ease_G[prompt_S]).astype(float)
        replays = [(RESAMPLE, 1, rows, again, False)]
    more = {}
    if rule in ("likelihood", CHAIN):
        replays, more["likelihood_T"] = [], draw.random(2 * count)
    if rule == CHAIN:
        more |= {"behind_S": draw.random(count), "said_S": value_S > 0}
    return columns(2, value_S, ("think", "reason"), replays, **more)


def vote(count: int, voters: int, tie: str, draw: np.random.Generator) -> Sessions:
    """Independent voters; each with its removal from the vote, as a team's sessions carry it."""
    prompt_S = np.arange(count) // N
    prompts = prompt_S[-1] + 1
    ease_GV = np.clip(draw.beta(0.8, 0.8, prompts)[:, None] + draw.normal(0, 0.1, (prompts, voters)), 0, 1)
    popularity = 0.5 ** np.arange(6)
    wrong_SV = 1 + draw.choice(6, (count, voters), p=popularity / popularity.sum())
    ballot_SV = np.where(draw.random((count, voters)) < ease_GV[prompt_S], RIGHT, wrong_SV)
    ballot_SV = np.where(draw.random((count, voters)) < 0.04, ABSTAINED, ballot_SV).astype(np.int32)
    value_S = values_of_codes(ballot_SV, 7, RIGHT, tie)
    without_SV = values_without(ballot_SV, tie)
    rows = np.arange(count)
    replays = [(REMOVE, voter, rows, without_SV[:, voter], False) for voter in range(voters)]
    roles = tuple(f"voter_{i}" for i in range(voters))
    return columns(voters, value_S, roles, replays, ballot_SV=ballot_SV, tie=tie)


# --- records --------------------------------------------------------------------------------------------------------


def record_times(options: argparse.Namespace) -> Iterator[dict]:
    """Columns of records, and of a trainer's rows: of the dyad and of three voters."""
    from ccpo.verl_plugin.rows import Row, to_sessions

    draw = np.random.default_rng(options.seed)
    few = min(RECORDS, options.rows)
    for team, sessions in (
        ("dyad", dyad(few // 2, "counterfactual", draw)),
        ("3 voters", vote(few // 3, 3, "expected", draw)),
    ):
        records = [sessions[s] for s in range(len(sessions))]
        rows = []
        for record in records:
            facts = asdict(record)
            for index in range(len(record.turns)):
                session = facts if index == 0 else None
                rows.append(Row("", str(record.prompt), record.session, index, {"session": session}))
        for name, call, argument in (
            ("Sessions.from_records", Sessions.from_records, (records, sessions.roles)),
            ("verl_plugin.rows.to_sessions", to_sessions, (rows, sessions.roles, "expected")),
        ):
            process = min(seconds(call, *argument)[0] for _ in range(options.repeat))
            count = len(sessions.role_T)
            yield {
                "made": f"{name}, {team}",
                "rows": count,
                "process_seconds": round(process, 3),
                "rows_per_second": round(count / process),
            }


if __name__ == "__main__":
    sys.exit(main())
