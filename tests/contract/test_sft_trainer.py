"""Facts about verl's SFT trainer (0.9.1) that recipe/sft_worker.py relies on."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

pytest.importorskip("verl")

import pandas as pd  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from verl.trainer.sft_trainer import SFTTrainer  # noqa: E402
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset  # noqa: E402

MODEL = Path(__file__).parents[2] / "data_preprocess" / "last_digit_model"


def test_data_sets_are_built_in_one_method_with_the_model_at_hand():
    steps = inspect.getsource(SFTTrainer.__init__)
    assert (
        steps.index("self._build_config()")
        < steps.index("self._build_dataset()")
        < steps.index("self._build_dataloader()")
    )
    built = inspect.getsource(SFTTrainer._build_dataset)
    assert "self.train_dataset, self.val_dataset =" in built
    assert list(inspect.signature(SFTTrainer._build_dataset).parameters) == ["self"]


def test_the_last_step_is_validated_and_saved():
    steps = inspect.getsource(SFTTrainer.fit)
    assert "is_last_step = global_step >= self.total_training_steps" in steps
    assert "if is_last_step or (self.save_freq > 0 and is_save_step):" in steps


def test_verls_own_data_set_learns_what_stands_behind_the_end_of_a_turn(tmp_path):
    """Hence ours: a rollout stops at the end token, and never samples the line break."""
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    pd.DataFrame({"messages": [messages]}).to_parquet(tmp_path / "a.parquet")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    config = OmegaConf.create({"pad_mode": "no_padding", "max_length": 64})
    row = MultiTurnSFTDataset(str(tmp_path / "a.parquet"), tokenizer, config)[0]
    assert tokenizer.decode(row["input_ids"][row["loss_mask"].bool()]) == "2<|im_end|>\n"
