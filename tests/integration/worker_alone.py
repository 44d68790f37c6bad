"""Updates of our worker with one loss after the other, alone in a process on the CPU: prints what test_update.py looks at, as JSON.

Not a test itself.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ |= {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "ccpo.verl_cpu.platform"}  # before verl is imported

import copy  # noqa: E402
from argparse import Namespace  # noqa: E402

import torch  # noqa: E402
from actor import CPU_MODEL, build, configuration, made_up_rows  # noqa: E402
from verl.utils import tensordict_utils as tu  # noqa: E402

from ccpo.verl_plugin.update import NOT_ASKED, Whole, WrongWeights, needed  # noqa: E402
from ccpo.verl_plugin.worker import WHOLE  # noqa: E402

OPTIONS = Namespace(
    cpu=True,
    rows=8,
    prompt=(10, 30),
    response=(4, 16),
    overrides=[f"actor_rollout_ref.actor.optim.{name}" for name in ("lr=1e-3", "lr_warmup_steps=0")],
)


def nested(parts):
    return torch.nested.as_nested_tensor(list(parts), layout=torch.jagged)


class Alone:
    def __init__(self, *overrides: str) -> None:
        self.config = configuration(
            str(CPU_MODEL), Namespace(**vars(OPTIONS) | {"overrides": [*OPTIONS.overrides, *overrides]})
        )
        self.worker = build(self.config)
        self.engine = self.worker.actor.engine
        self.start = copy.deepcopy(self.engine.module.state_dict()), copy.deepcopy(self.engine.optimizer.state_dict())
        self.rows = made_up_rows(self.config, OPTIONS)

    def reset(self):
        self.engine.module.load_state_dict(self.start[0])
        self.engine.optimizer.load_state_dict(copy.deepcopy(self.start[1]))

    def weights(self):
        found = {}
        for name, value in self.engine.module.state_dict().items():
            found[name] = getattr(value, "full_tensor", lambda value=value: value)().clone()
        return found

    def call(self, name: str, rows, **given):
        rows = rows.clone()
        for key, value in {"temperature": 1.0, **given}.items():
            tu.assign_non_tensor_data(rows, key, value)
        return getattr(self.worker, name)(rows)

    def log_probs(self):
        from verl.workers.utils.padding import response_from_nested

        out = self.call("compute_log_prob", self.rows, calculate_entropy=False, compute_loss=False)
        return response_from_nested(out["log_probs"], self.rows["response_mask"])

    def update(self, only=None, told=None, **columns):
        rows = self.rows.clone() if only is None else tu.index_select_tensor_dict(self.rows, only)
        for name, value in columns.items():
            rows[name] = value
        size = len(rows)
        self.reset()
        settings = dict(
            mini_batch_size=size, global_batch_size=size, epochs=1, seed=0, dataloader_kwargs={"shuffle": False}
        )
        out = self.call("update_actor", rows, calculate_entropy=True, **settings, **(told or {}))
        return {k: float(torch.tensor(v).float().mean()) for k, v in tu.get(out, "metrics").items()}, self.weights()


def most(a, b) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def with_silent_rows(loss: str) -> dict:
    """Rows 2 to 7 have no advantage, and the last three say what rows 2 to 4 say: the update with all of them, and without the last three."""
    alone = Alone(f"loss={loss}")
    alone.rows = tu.index_select_tensor_dict(alone.rows, [0, 1, 2, 3, 4, 2, 3, 4])
    alone.rows["advantages"] = nested(
        part if i < 2 else torch.zeros_like(part) for i, part in enumerate(alone.rows["advantages"].unbind())
    )
    before, keys = alone.weights(), [str(i) for i in range(8)]
    tokens = {key: len(part) for key, part in zip(keys, alone.rows["response_mask"].unbind(), strict=True)}
    kept = needed(keys, set(keys[2:]), {"2", "3"}, 5)
    whole = Whole.of(8, tokens, set(keys[2:]), kept, alone.config.actor_rollout_ref.actor.loss_agg_mode)
    own = nested(part + 0.25 for part in alone.log_probs().unbind())
    told, all_rows = alone.update(rollout_log_probs=own)
    left = [int(key) for key in kept]
    less, some = alone.update(left, {WHOLE: whole._asdict()}, rollout_log_probs=nested(own[i] for i in left))
    return {
        "kept": kept,
        "moved": most(before, all_rows),
        "apart": most(all_rows, some),
        "all": told,
        "some": less,
    }


def updates(loss: str) -> dict:
    alone = Alone(f"loss={loss}")
    before, own = alone.weights(), alone.log_probs()
    told, with_pass = alone.update(old_log_probs=own)
    gap, without = alone.update(rollout_log_probs=nested(part + 0.25 for part in own.unbind()))
    some = [torch.full_like(part, NOT_ASKED) if i % 2 else part + 0.5 for i, part in enumerate(own.unbind())]
    asked, _ = alone.update(rollout_log_probs=nested(some))
    silent, blind = alone.update()
    refused = {}
    for name, offset in (("far", 3.0), ("nan", float("nan"))):
        try:
            alone.update(rollout_log_probs=nested(part + offset for part in own.unbind()))
        except WrongWeights as error:
            refused[name] = {"kl": str(error.kl), "moved": most(before, alone.weights())}
    return {
        "moved": most(before, without),
        "apart": max(most(with_pass, without), most(with_pass, blind)),
        "with_pass": told,
        "without": gap,
        "asked_half": asked,
        "not_compared": silent,
        "refused": refused,
        "silent": with_silent_rows(loss),
    }


if __name__ == "__main__":
    print("RESULT " + json.dumps({loss: updates(loss) for loss in sys.argv[1:]}))
