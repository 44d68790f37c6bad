"""The regimes of scripts/regimes.py: four base settings, and others that differ from one of them in one thing. And what they start from.

Everything is of the embedded task ``last_digit`` or of ``silence``. Data and starts are made once, below ``--data``; a start is a model folder whose
gate says how able each role is. Our construction.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import compare_credit  # noqa: E402

from ccpo.run.json_file import write_atomic  # noqa: E402

EXACT, HINGE = "likelihood ccpo.credit.last_gradient=exact", "likelihood ccpo.credit.negative_slope=0.25"
PRICE = "own_correctness ccpo.credit.wrong_price=1"
DYAD = ("shared", "shared_history", "counterfactual", "likelihood", EXACT)
VOTE = ("shared", "own_correctness", "leave_one_out", "resampled")
CHAIN = ("shared", "shared_history", "removal", "counterfactual", "likelihood")
MODEL = "actor_rollout_ref.model.path={data}/models/"
SESSIONS = "actor_rollout_ref.rollout.n="
VOTERS = "ccpo.team_kwargs.n_voters="
EACH = "ccpo.policies=per_role"


@dataclass(frozen=True)
class Regime:
    """One setting. What is empty is the base's.

    name. says: what is different, in words; of a base: what it is. changes: the overrides that make the difference; ``{data}`` stands for
    ``--data``. base: the regime that it differs from, else empty. rules: the first is what others are compared with. team, task. data, starts: what
    it needs (`DATASETS`, `STARTS`). seconds: of a run, about, on one core.
    """

    name: str
    says: str
    changes: tuple[str, ...]
    base: str = ""
    rules: tuple[str, ...] = ()
    team: str = ""
    task: str = ""
    data: str = ""
    starts: tuple[str, ...] = ()
    seconds: float = 0.0


def _files(folder: str) -> tuple[str, ...]:
    return tuple(
        f"data.{key}_files={{data}}/{folder}/{split}.parquet" for key, split in (("train", "train"), ("val", "test"))
    )


def _models(*names: str) -> tuple[str, ...]:
    return tuple(f"+ccpo.roles.voter_{i}.model={{data}}/models/{name}" for i, name in enumerate(names) if name)


_STEPS = (
    "trainer.total_training_steps=30",
    "trainer.test_freq=-1",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.optim.lr=3.0e-4",
)
_ANSWERS = ("+ccpo.roles.proposer.max_tokens=6", "+ccpo.roles.refiner.max_tokens=6")
_SPECIALISTS = tuple(f"specialist_{i}" for i in range(5))
_UNEQUAL = ("strong", "strong", "", "weak", "weak")  # empty: the embedded model

BASES = (
    Regime(
        "dyad", "Think and Reason, one policy, 8 prompts x 4 sessions, 30 steps",
        (*_STEPS, SESSIONS + "4", *_files("last_digit"), "ccpo.validation_replays=[remove]"),
        rules=DYAD, team="dyad", task="last_digit", data="last_digit", starts=("embedded",), seconds=10
    ),
    Regime(
        "vote", "five voters, one policy, 8 prompts x 4 sessions, 30 steps",
        (*_STEPS, SESSIONS + "4", *_files("last_digit"), "ccpo.validation_replays=[]", VOTERS + "5"),
        rules=VOTE, team="vote", task="last_digit", data="last_digit", starts=("embedded",), seconds=12
    ),
    Regime(
        "silence", "seven voters, some with a smudged copy, two kinds of prompt, one policy, 8 prompts x 2 sessions, 40 steps",
        (*_STEPS[1:], "trainer.total_training_steps=40", SESSIONS + "2", *_files("silence"), "ccpo.validation_replays=[]"),
        rules=(*VOTE, PRICE), team="vote", task="silence", data="silence", starts=("silence_voter",), seconds=17
    ),
    Regime(
        "chain", "one drafts, one reviews, one answers; one policy, 8 prompts x 4 sessions, 30 steps",
        (*_STEPS, SESSIONS + "4", *_files("last_digit"), "ccpo.validation_replays=[remove]", MODEL + "chain", *_ANSWERS),
        rules=CHAIN, team="examples/chain.py:Chain", task="last_digit", data="last_digit", starts=("chain",), seconds=14
    ),
)  # fmt: skip
CHANGED = (
    Regime("dyad_two_policies", "a model for each role", (EACH,), "dyad"),
    Regime("dyad_n2", "2 sessions of a prompt", (SESSIONS + "2",), "dyad"),
    Regime("dyad_n8", "8 sessions of a prompt", (SESSIONS + "8",), "dyad", seconds=11),
    Regime("dyad_noisy_reason", "Reason errs half of the time", (MODEL + "noisy_reason",), "dyad", starts=("noisy_reason",)),
    Regime(
        "dyad_lazy_think", "Think mostly says nothing of use", (MODEL + "lazy_think",), "dyad",
        rules=(*DYAD, HINGE), starts=("lazy_think",),
    ),
    Regime(
        "dyad_misleading_think", "Think mostly says something wrong", (MODEL + "misleading_think",), "dyad",
        rules=(*DYAD, HINGE), starts=("misleading_think",),
    ),
    Regime(
        "dyad_long_thoughts", "thoughts are eight times as long as answers",
        (MODEL + "long_thoughts", "data.max_response_length=56", "data.max_prompt_length=144"), "dyad",
        rules=(*DYAD, "resampling"), starts=("long_thoughts",), seconds=22
    ),
    Regime(
        "dyad_many_spellings", "Reason spells an answer in one of four ways", (MODEL + "many_spellings",), "dyad",
        starts=("many_spellings",),
    ),
    Regime(
        "dyad_spelling_by_thought", "Reason spells its answer otherwise where a thought names a step",
        (MODEL + "spelling_by_thought",), "dyad", rules=(*DYAD, "resampling"), starts=("spelling_by_thought",),
    ),
    Regime("vote_3", "three voters", (VOTERS + "3",), "vote"),
    Regime("vote_9", "nine voters", (VOTERS + "9",), "vote", seconds=20),
    Regime("vote_n2", "2 sessions of a prompt", (SESSIONS + "2",), "vote"),
    Regime("vote_weak", "weak voters", (MODEL + "weak",), "vote", starts=("weak",)),
    Regime("vote_strong", "strong voters", (MODEL + "strong",), "vote", starts=("strong",)),
    Regime("vote_policies", "a model for each voter", (EACH,), "vote", seconds=20),
    Regime(
        "vote_unequal", "a model for each voter: two strong, one between, two weak", (EACH, *_models(*_UNEQUAL)), "vote",
        starts=("embedded", "strong", "weak"), seconds=20
    ),
    Regime(
        "vote_specialists", "a model for each voter, who knows a fifth of the questions", (EACH, *_models(*_SPECIALISTS)), "vote",
        rules=(*VOTE, PRICE), starts=_SPECIALISTS, seconds=20
    ),
    Regime(
        "vote_two_rounds", "a second round, in which everyone reads the others' answers", ("ccpo.team_kwargs.rounds=2",), "vote",
        rules=VOTE[:3], seconds=50
    ),
    Regime(
        "silence_one_smudge", "one kind of prompt: guesses coincide", _files("one_smudge"), "silence", data="one_smudge", seconds=11
    ),
    Regime(
        "silence_own_smudges", "one kind of prompt: guesses scatter", _files("own_smudges"), "silence", data="own_smudges", seconds=11
    ),
    Regime("silence_n6", "6 sessions of a prompt", (SESSIONS + "6",), "silence", seconds=27),
    Regime(
        "chain_two", "nobody reviews the draft", (), "chain", team="scripts/short_chain.py:ShortChain", seconds=8
    ),
    Regime("chain_n2", "2 sessions of a prompt", (SESSIONS + "2",), "chain"),
)  # fmt: skip


def regimes() -> dict[str, Regime]:
    """name -> regime with nothing empty, each base before its own; `overrides` are all of a run's."""
    inherited, found = ("rules", "team", "task", "data", "starts", "seconds"), {}
    for base in BASES:
        found[base.name] = base
        for regime in CHANGED:
            if regime.base == base.name:
                own = {name: getattr(regime, name) or getattr(base, name) for name in inherited}
                found[regime.name] = replace(regime, **own)
    return found


def overrides(regime: Regime, folder: Path) -> list[str]:
    """Of its runs; ``folder``: ``--data``. What the regime changes replaces what its base sets."""
    own = {base.name: base.changes for base in BASES}.get(regime.base, ()) + regime.changes
    merged = {override.partition("=")[0]: override for override in own}
    return [override.replace("{data}", str(folder)) for override in merged.values()]


# --- configurations ---------------------------------------------------------------------------------------------------


def compose(
    regime: Regime, seeds: Sequence[int], folder: Path, more: Sequence[str]
) -> dict[tuple[str, int], dict[str, Any]]:
    """(rule, seed) -> configuration of a run; ``more``: overrides of every run. Raises `compare_credit.Mistake` where there is none.

    Composing takes half a second for each rule, and verl's own configuration. So what was composed stays in ``folder``/composed, and is taken as long as
    the same is asked of the same files.
    """
    own = [*overrides(regime, folder), *more]
    files = [ROOT / "REQUIRED_VERL.txt", *sorted((ROOT / "recipe" / "config").rglob("*.yaml"))]
    asked = json.dumps([regime.team, regime.task, regime.rules, list(seeds), own]).encode()
    digest = hashlib.sha256(b"".join([asked, *(file.read_bytes() for file in files)])).hexdigest()
    path = folder / "composed" / f"{regime.name}-{digest[:16]}.json"
    if path.exists():
        listed = json.loads(path.read_text(encoding="utf-8"))
        return {(rule, seed): config for rule, seed, config in listed}
    made = compare_credit.configurations(regime.team, regime.task, regime.rules, seeds, own)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{os.getpid()}")  # another command may compose the same at once
    write_atomic(own, json.dumps([[rule, seed, config] for (rule, seed), config in made.items()]))
    own.replace(path)
    return made


# --- data and starts --------------------------------------------------------------------------------------------------

TRAIN, TEST = 4096, {"last_digit": 512, "silence": 600}


def _last_digit() -> dict[str, list]:
    from data_preprocess import toy

    return {"train": toy.dataset_rows("train", TRAIN, 0), "test": toy.dataset_rows("test", TEST["last_digit"], 0)}


def _silence(kind: str = "") -> dict[str, list]:
    """``kind``: of the same prompts, those of one kind."""
    from data_preprocess import silence

    rows = {
        "train": silence.dataset_rows("train", TRAIN, 0),
        "test": silence.dataset_rows("test", TEST["silence"], 0),
    }
    return {
        split: [row for row in listed if row["data_source"].endswith(f"/{kind}" if kind else "")]
        for split, listed in rows.items()
    }


DATASETS: dict[str, Callable[[], dict[str, list]]] = {
    "last_digit": _last_digit,
    "silence": _silence,
    "one_smudge": partial(_silence, "one_smudge"),
    "own_smudges": partial(_silence, "own_smudges"),
}


def make_data(name: str, folder: Path) -> None:
    """Write ``folder``/``name``. The same rows give the same bits."""
    from data_preprocess.schema import write_dataset

    if not (folder / name / "manifest.json").exists():
        source = {"generator": "scripts/regime_list.py", "set": name}
        write_dataset(folder / name, DATASETS[name](), name=name, sources=[source])


SHIPPED = {"embedded": "last_digit_model", "silence_voter": "silence_voter"}
"""Starts that are there already -> folder of data_preprocess."""


def start_names() -> list[str]:
    return list(dict.fromkeys(start for regime in regimes().values() for start in regime.starts))


def make_start(name: str, folder: Path) -> dict[str, Any]:
    """Write the model ``folder``/models/``name``, unless it is complete; returns its gate's numbers.

    Raises RuntimeError where no seed passes the gate, ValueError where the folder is not ours.
    """
    from data_preprocess import toy_chain, toy_specialists, toy_starts, toy_voters
    from data_preprocess.toy_lessons import UNEQUAL_VOTERS
    from data_preprocess.toy_model import MANIFEST

    out = folder / "models" / name
    if name in toy_starts.STARTS:
        manifest = toy_starts.build(out, toy_starts.STARTS[name])
    elif name in UNEQUAL_VOTERS:
        manifest = toy_voters.build(out, toy_voters.VoterRecipe(UNEQUAL_VOTERS[name], *toy_voters.RANGES[name]))
    elif name.startswith("specialist_"):
        manifest = toy_specialists.build(out, toy_specialists.SpecialistRecipe(int(name.rpartition("_")[2])))
    elif name == "chain":
        manifest = toy_chain.build(out)
    else:
        manifest = json.loads(
            (Path(toy_starts.__file__).with_name(SHIPPED[name]) / MANIFEST).read_text(encoding="utf-8")
        )
    return {key: value for key, value in manifest["gate"].items() if key != "wanted"}
