"""Which credit rule helps: the same job once per rule and seed, on the compact trainer (`ccpo.compact`), several at a time.

    python scripts/compare_credit.py --team vote --task silence --rules shared own_correctness resampled --seeds 0-4 --out outputs/silence
    python scripts/compare_credit.py --task last_digit --rules shared counterfactual --seeds 0-9 --out outputs/dyad trainer.total_training_steps=30
    python scripts/compare_credit.py --rules shared removal resampling --choose 0-4 --confirm 5-14 --by auc --budget tokens --out outputs/chosen

A rule may bring settings of its own, in quotes: "own_correctness ccpo.credit.normalize=centred". Overrides at the end are every run's. The first
rule is the reference: differences are to its run with the same seed.

--budget says what is equal. ``sessions``: every rule trains the same steps, and is asked the same prompts in the same order with as many sessions;
replays that decode come on top, so some rules decode more. ``generations``: no rule decodes more turns in training than the reference did with the
same seed, turns of replays included; ``tokens``: the same of response tokens. The batch and the constant learning rate stay, and the number of
steps differs: a rule trains until its next step would pass the budget, fewer steps than the reference where its replays decode, more where
the reference's do. So it may end up to a step short of the budget; the scores are those of the validation there, ``auc`` is of all of it.
Not counted: prompts that are read, forward passes, updates, validation (`ccpo.compact.budget`).

--choose and --confirm keep apart the seeds that choose a rule and those that say what it is worth: all rules run on the first, and the one with the
highest mean of --by, the reference apart, runs with the reference on the others. Intervals are those of the confirming seeds alone. With
--seeds, all rules on the same seeds, the p-value of a difference is adjusted (Holm) for the number of rules that are compared.

--signal N adds the gradients' signal-to-noise per role (`ccpo.compact.signal`): of N batches at the starting weights, and of every fifth step.

Every run is written when it is over, to OUT/runs; the same command goes on with those that are missing, and a run that was ended begins anew. Then
OUT/scores.csv (team, task, rule, seed, split, score, value), OUT/curves.png (and OUT/choosing.png) and a table. What each score is:
`ccpo.compare_rules.scores`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

from ccpo.compare_rules import runs  # noqa: E402
from ccpo.compare_rules.picture import draw  # noqa: E402
from ccpo.compare_rules.runs import Extra, Key, Mistake  # noqa: E402
from ccpo.compare_rules.scores import scores, write_scores  # noqa: E402
from ccpo.compare_rules.tables import Values, best, differences, every_score, headline, table  # noqa: E402
from ccpo.config import ConfigError  # noqa: E402
from ccpo.run.lock import run_lock  # noqa: E402
from ccpo.run.output import until_cut  # noqa: E402
from ccpo.team.load import BUILT_IN  # noqa: E402
from data_preprocess import silence  # noqa: E402

SECTIONS = ("actor_rollout_ref", "algorithm", "ccpo", "data", "trainer")
"""Of the composed configuration, what a run depends on."""
DATA = {"last_digit": "data_preprocess.toy", silence.NAME: "data_preprocess.silence"}
"""Task -> module that writes data/TASK."""
LOOKS = {silence.NAME: (silence.COLUMN, silence.copy_scores)}
"""Task -> what else its validation is asked."""
BUDGETS = ("sessions", "generations", "tokens")
SEEDS = {"all": "seeds", "choose": "choose", "confirm": "confirm"}
"""Split -> the option that has its seeds."""
SAYS = {"all": "", "choose": ", to choose a rule", "confirm": ", which chose nothing"}
PICTURES = {"all": "curves.png", "choose": "choosing.png", "confirm": "curves.png"}


# --- what is run ------------------------------------------------------------------------------------------------------


def configurations(
    team: str, task: str, rules: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]
) -> dict[tuple[str, int], dict[str, Any]]:
    """(rule, seed) -> the composed configuration, as plain data. Raises Mistake where there is none, or the compact trainer would not obey it."""
    import hydra
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from ccpo.compact import Settings

    name, own = (f"ccpo_{team}", []) if team in BUILT_IN else ("ccpo", [f"ccpo.team={json.dumps(team)}"])
    if task == silence.NAME:
        own += silence.OVERRIDES.get(team, ())
    composed = {}
    with hydra.initialize_config_dir(str(ROOT / "recipe" / "config"), version_base=None):
        for rule in rules:
            word, *settings = rule.split()
            chosen = ["profile=cpu", f"task={task}", *own, f"ccpo.credit.rule={word}", *overrides, *settings]
            try:
                composed[rule] = hydra.compose(name, chosen)
            except (hydra.errors.HydraException, OmegaConfBaseException) as error:
                raise Mistake(f"{rule}: {' '.join(str(error).split())}") from None
    found = {}
    for seed in seeds:  # in this order: what is stopped early has all rules on some seeds
        for rule, config in composed.items():
            config.seed = seed
            found[rule, seed] = {key: OmegaConf.to_container(config[key], resolve=True) for key in SECTIONS}
    for rule in composed:
        try:
            Settings.of(found[rule, seeds[0]])
        except ConfigError as error:
            raise Mistake(f"{rule}: {error}") from None
    return found


def run_all(
    task: str, configs: Mapping[Key, dict[str, Any]], out: Path, jobs: int, extra: Extra | None = None
) -> dict[Key, dict[str, Any]]:
    """Run what is missing; returns all (`ccpo.compare_rules.runs`)."""
    return runs.run_all(configs, out, jobs, extra, LOOKS.get(task))


def ensure_data(config: Mapping[str, Any], task: str) -> None:
    for name in ("train_files", "val_files"):
        path = Path(config["data"][name])
        if not path.exists():
            hint = f"python -m {DATA[task]} --out {path.parent}" if task in DATA else "a command of data_preprocess"
            raise Mistake(f"data.{name} is {path}, which does not exist: make it with {hint}")


def compared(
    known: argparse.Namespace, configs: Mapping[Key, dict[str, Any]], rules: Sequence[str], split: str
) -> Values:
    """Run these rules on a split's seeds, and draw them; returns their scores."""
    seeds = getattr(known, SEEDS[split])
    extra = Extra(None if known.budget == "sessions" else known.budget, None, known.signal)
    mine = {key: config for key, config in configs.items() if key[0] in rules and key[1] in seeds}
    found = run_all(known.task, mine, known.out, known.jobs, extra)
    values = {key: scores(one) for key, one in found.items()}
    title = f"{known.team}, {known.task}; equal {known.budget}; {_seeds(seeds)}{SAYS[split]}"
    draw(known.out / PICTURES[split], found, values, title, intervals=split != "choose")
    return values


# --- the command ------------------------------------------------------------------------------------------------------


def seed_list(text: str) -> list[int]:
    """``0-4`` or ``0,3,7``."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise argparse.ArgumentTypeError(f"{text!r} names no seeds: set 0-4, or 0,3,7")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


def seed_text(seeds: Sequence[int]) -> str:
    """What `seed_list` reads."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {seed_text(seeds)}"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The same job once per credit rule and seed, and a table over the seeds."
    )
    parser.add_argument("--team", default="dyad", help="dyad, vote, path/to/file.py:Class (default dyad)")
    parser.add_argument("--task", default="last_digit", help=f"{' or '.join(DATA)} (default last_digit)")
    parser.add_argument(
        "--rules", nargs="+", required=True, help="credit rules; the first is what others are compared with"
    )
    parser.add_argument("--seeds", type=seed_list, help="0-4, or 0,3,7 (default 0-2)")
    parser.add_argument("--choose", type=seed_list, help="seeds that choose a rule, instead of --seeds")
    parser.add_argument("--confirm", type=seed_list, help="other seeds, on which the chosen rule is compared again")
    parser.add_argument("--by", help="score whose highest mean chooses (default auc)")
    parser.add_argument("--budget", choices=BUDGETS, default="sessions", help="what is equal (default sessions)")
    parser.add_argument(
        "--signal",
        type=int,
        default=0,
        metavar="BATCHES",
        help="measure the gradients' signal-to-noise (default 0: no)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of this comparison")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: processors)")
    parser.add_argument(
        "--scores", nargs="+", default=(), help="scores of the table, or all (default: those of the whole team)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="of every run: trainer.total_training_steps=30; paths are seen from the repository's root",
    )
    known, rest = parser.parse_known_args(argv)
    if wrong := [word for word in rest if "=" not in word or word.startswith("--")]:
        parser.error(f"{wrong[0]} is no argument of this command")
    moved = []  # what follows --rules or --scores is read as one of them
    for name in ("rules", "scores"):
        given = getattr(known, name)
        moved += [word for word in given if "=" in word.partition(" ")[0]]
        setattr(known, name, [word for word in given if word not in moved])
    known.overrides = [*known.overrides, *moved, *rest]
    if known.jobs < 1:
        parser.error(f"--jobs is {known.jobs}: set at least 1")
    if known.signal < 0:
        parser.error(f"--signal is {known.signal}: set a number of batches, or 0")
    if not known.rules or not all(rule.strip() for rule in known.rules):
        parser.error("--rules has a rule without a name")
    if problem := split_problem(known):
        parser.error(problem)
    known.seeds, known.by = known.seeds or [0, 1, 2], known.by or "auc"
    return known


def split_problem(known: argparse.Namespace) -> str | None:
    if not known.choose and not known.confirm:
        return "--by chooses a rule: set --choose and --confirm" if known.by else None
    if not known.choose or not known.confirm:
        return "--choose and --confirm go together: seeds that choose a rule, and others that say what it is worth"
    if known.seeds:
        return "--seeds has all rules on all seeds, --choose and --confirm have not: leave it out"
    if both := sorted(set(known.choose) & set(known.confirm)):
        return f"seed {both[0]} is in --choose and in --confirm: what chose a rule says too much of it"
    if len(known.confirm) < 2:
        return "--confirm has one seed: it takes two to say how far seeds differ"
    if len(known.rules) < 3:
        return f"{len(known.rules)} --rules leave nothing to choose beside the reference: use --seeds"
    return None


def choice(known: argparse.Namespace, values: Values, chosen: str, by: str) -> list[str]:
    """What the choosing seeds say, in words that claim nothing of it."""
    reference, *others = known.rules
    ahead = statistics.fmean(differences(values, chosen, by))
    lines = [
        f"chosen on {_seeds(known.choose)} by {by}, of {len(others)} rules beside {reference}: {chosen} ({ahead:+.3f} from {reference})."
    ]
    if ahead <= 0:
        lines.append(f"None was ahead of {reference}: the nearest is compared with it again.")
    seen = tried(known.out, known.rules, known.confirm) - {reference, chosen}
    if seen:
        lines.append(
            f"The confirming seeds have been run in this folder with {', '.join(sorted(seen))}, too: what they say of {chosen} is the best of "
            f"{len(seen) + 1}, unless those runs were never looked at. Take seeds that nobody has seen."
        )
    return lines


def tried(out: Path, rules: Sequence[str], seeds: Sequence[int]) -> set[str]:
    """Rules of which a run with one of these seeds is over, those of earlier commands included, which are named after their files."""
    rule_of = {runs.run_path(out, rule, seed).name: rule for rule in rules for seed in seeds}
    files = [path for seed in seeds for path in (out / "runs").glob(f"*-seed{seed}.json")]
    return {rule_of.get(path.name, path.name.rpartition("-seed")[0]) for path in files}


def main(argv: Sequence[str] | None = None) -> None:
    known = arguments(argv)
    known.out = known.out.absolute()
    os.chdir(ROOT)  # as everywhere, paths in the configuration are seen from here
    reference, *others = known.rules
    try:
        seeds = [*(known.choose or known.seeds), *(known.confirm or ())]
        configs = configurations(known.team, known.task, known.rules, seeds, known.overrides)
        ensure_data(next(iter(configs.values())), known.task)
        with run_lock(known.out):
            if known.choose:
                choosing = compared(known, configs, known.rules, "choose")
                chosen = best(choosing, known.by)
                words = choice(known, choosing, chosen, known.by)
                result = compared(known, configs, [reference, chosen], "confirm")
                splits = {"choose": choosing, "confirm": result}
            else:
                result = compared(known, configs, known.rules, "all")
                splits = {"all": result}
            write_scores(known.out / "scores.csv", known.team, known.task, splits)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    every = every_score(result)
    if unknown := [name for name in known.scores if name not in ("all", *every)]:
        sys.exit(f"error: --scores {unknown[0]}: no run has it; set all, or some of {', '.join(every)}")
    names = every if "all" in known.scores else known.scores or headline(every)
    if known.choose:
        print(table(choosing, [known.by], intervals=False), *words, "", sep="\n")
        print(f"confirmed on {_seeds(known.confirm)}, which chose nothing; means and 95 % t intervals:")
    print(table(result, names))
    if len(others) > 1 and not known.choose:
        print(
            f"{len(others)} rules are compared with {reference}: the p-values of a score are adjusted for that, not for the number of scores"
        )
    print(
        f"equal {known.budget}; every score of every run: {known.out / 'scores.csv'}; curves: {known.out / 'curves.png'}"
    )


if __name__ == "__main__":
    sys.exit(until_cut(main))
