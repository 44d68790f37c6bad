"""An own reward tried on rows of the data, before Ray starts: what it cannot do there ends the job now, not after the first step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ccpo.config import CcpoConfig
from ccpo.credit.rules import partial_problems
from ccpo.data import shown
from ccpo.judge import judge_of
from ccpo.reward import RewardError
from ccpo.verl_plugin.dataset import files

ROWS = 2
"""Rows of every file that are tried: a reward may ask a model, and each try is a call."""


def problems(config: DictConfig, settings: CcpoConfig) -> list[str]:
    """Why the own reward of a job whose data is fine cannot judge it: its first failure, or what the team or the rule cannot use."""
    if settings.own_reward is None:
        return []
    try:
        return asyncio.run(_tried(config, settings))
    finally:
        settings.own_reward.close()


async def _tried(config: DictConfig, settings: CcpoConfig) -> list[str]:
    plan, said = settings.plan, f"ccpo.reward={settings.reward}"
    for place, row in _rows(config):
        truth = row["reward_model"]["ground_truth"]
        for text in dict.fromkeys((f"\\boxed{{{truth}}}", "")):
            tried = f"tried on {place} with the text {shown(text)}"
            judge = judge_of(row, settings.own_reward)
            try:
                verdict = await judge.verify(text)
            except RewardError as error:
                return [
                    f"{said}: {error} ({tried}): a session whose reward fails is dropped; give every text a value in [0, 1]"
                ]
            if plan.tie is not None and verdict.answer is None and verdict.parsed:
                return [
                    f"{said}: it gave a bare number ({tried}), and the team's outcome is a plurality, which counts answers; let it return "
                    "ccpo.reward.Reward(value, answer)"
                ]
            if 0 < verdict.reward < 1 and (found := partial_problems(settings.credit.rule, plan)):
                return [f"{said}: it gave {verdict.reward:g} ({tried}), partial credit: {why}" for why in found]
    return []


def _rows(config: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of the first rows of every file."""
    import pyarrow.parquet as parquet

    for path in (*files(config.data.train_files), *files(config.data.val_files)):
        with parquet.ParquetFile(Path(path)) as opened:
            rows = (row for batch in opened.iter_batches(batch_size=ROWS) for row in batch.to_pylist())
            for number, row in enumerate(islice(rows, ROWS)):
                yield f"{path}, row {number}", row
