"""How often the verifier is wrong, on real truths that were changed or respelled.

    python scripts/check_verifier.py data/math data/gsm8k data/logiqa     folders that data_preprocess made
    python scripts/check_verifier.py data/math --count 20000 --seed 1 --json verifier.json

For each answer type in the data: ``count`` changed truths, of which none may be accepted, and as many respelled ones, of which at most 0.2 %
may be refused, from each of two generators (tests/verifier); what fixed texts earn, which must be nothing; and verdicts a second.
Labels come from the edit that was made, never from a parser. The exit status is 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ccpo.verifier import OWN, verify  # noqa: E402
from data_preprocess.base_rates import earned  # noqa: E402

GENERATORS = ("first_generator", "second_generator")
MOST_REFUSED = 0.002
SHOWN = 5


def generator(name: str):
    """A module of tests/verifier, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "verifier" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def read_rows(folders: list[Path]) -> dict[str, list[dict]]:
    """Answer type of the verifier -> rows of all splits. Raises SystemExit where there is nothing to read."""
    import pyarrow.parquet as parquet

    rows: dict[str, list[dict]] = defaultdict(list)
    for folder in folders:
        files = sorted(folder.glob("*.parquet"))
        if not files:
            sys.exit(f"error: {folder} has no parquet file: make one with a python -m data_preprocess.* command")
        for file in files:
            for row in parquet.ParquetFile(file).read().to_pylist():
                if row["extra_info"]["answer_type"] != OWN:
                    rows[row["extra_info"]["answer_type"]].append(row)
    if not rows:
        sys.exit("error: these rows are judged by a reward of your own, and not by the verifier")
    return rows


def judge(module, label: str, rows: list[dict], count: int, seed: int) -> dict:
    """``count`` verdicts on texts of one generator and label; those that are wrong, with their texts."""
    rng, make, want = random.Random(f"{seed} {label}"), getattr(module, label), float(label == "right")
    wrong, done, spent = [], 0, 0.0
    while done < count:
        row = rng.choice(rows)
        truth, info = row["reward_model"]["ground_truth"], row["extra_info"]
        options = tuple(info["options"] or ())
        try:
            edit, text = make(rng, truth, info["answer_type"], options)
        except LookupError:  # no edit is certain for this truth
            continue
        done += 1
        start = time.perf_counter()
        verdict = verify(text, truth, info["answer_type"], options)
        spent += time.perf_counter() - start
        if verdict.reward != want:
            wrong.append({"edit": edit, "truth": truth, "text": text, "read": verdict.answer})
    return {
        "texts": done,
        "misjudged": len(wrong),
        "rate": len(wrong) / done,
        "a second": round(done / spent),
        "which": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="folders that data_preprocess made")
    parser.add_argument("--count", type=int, default=5000, help="texts of each label, type and generator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures, with every misjudged text, to this file")
    arguments = parser.parse_args()

    result: dict = {"count": arguments.count, "seed": arguments.seed, "types": {}}
    held = True
    for kind, rows in sorted(read_rows(arguments.data).items()):
        fixed = earned(rows)
        result["types"][kind] = {"rows": len(rows), "fixed texts": fixed}
        held &= not any(fixed.values())
        print(f"{kind}: {len(rows)} rows; fixed texts earn {max(fixed.values()):.4f} at most")
        for name in GENERATORS:
            for label, what in (("wrong", "accepted though wrong"), ("right", "refused though right")):
                found = judge(generator(name), label, rows, arguments.count, arguments.seed)
                result["types"][kind][f"{name} {label}"] = found
                held &= found["rate"] <= (0 if label == "wrong" else MOST_REFUSED)
                print(
                    f"  {name:17} {what:22} {found['misjudged']:4} of {found['texts']} ({found['rate']:.2%}), {found['a second']} a second"
                )
                for case in found["which"][:SHOWN]:
                    print(f"      {case['edit']}: {case['text'][-120:]!r} for {case['truth']!r}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print("every bound holds" if held else "a bound does not hold")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
