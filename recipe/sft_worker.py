"""One process of teaching, started by recipe/main_sft.py: verl's SFT trainer on lessons that are tokenized as sessions are.

verl's own data set would tokenize message by message and learn what its chat template writes behind the end of a turn, too, which no rollout
ever samples. Here a prompt is what the agent loop sends (verl's token builder, `ccpo/verl_plugin/agent_loops.py`), and what is learned is
the reply and the token that ends it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from merge_adapter import WEIGHTS
from torch.utils.data import Dataset

from ccpo.data import shown
from ccpo.reference import end_token

TOKENS = "tokens.pt"
"""Beside the configuration: {"train", "val"} -> the lessons, as lists of (prompt, reply)."""
ADAPTER = "adapter"
"""There, too: what was taught with model.lora_rank."""


class Tokens(NamedTuple):
    """A lesson: what is asked, and what is learned, its end included."""

    prompt: list[int]
    reply: list[int]


class LessonError(ValueError):
    """Lessons that cannot be taught with this model; the text says why and what to set."""


def messages_of(path: str | Path) -> list[list[dict[str, str]]]:
    """The chats of a file of lessons. Raises LessonError."""
    import pyarrow.parquet as pq

    try:
        chats = pq.ParquetFile(path).read(["messages"]).column("messages").to_pylist()
    except Exception as error:  # pyarrow has several types for it
        raise LessonError(f"{path} is no file of lessons ({error}): make it with data_preprocess.sft_roles") from None
    for number, messages in enumerate(chats):
        try:
            good = (
                len(messages) > 1
                and messages[-1]["role"] == "assistant"
                and all(m["content"] is not None for m in messages)
            )
        except (TypeError, KeyError):
            good = False
        if not good:
            raise LessonError(
                f"{path}, row {number}: a lesson is a chat that ends with the assistant's reply, not {shown(messages)}"
            )
    return chats


def tokenized(path: str | Path, tokenizer: Any, model_type: str | None, longest: int) -> list[Tokens]:
    """The lessons of a file, as a rollout of this model would ask them. Raises LessonError naming the first that cannot be taught.

    Args:
        longest: tokens of prompt and reply.
    """
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    logging.getLogger("verl.utils.tokenizer.continuous_token_wiring").setLevel(
        logging.ERROR
    )  # that it is the general one
    builder = create_continuous_token_builder(
        tokenizer, hf_model_type=model_type, chat_template_kwargs={}, mm_processor_kwargs={}, processor=None
    )
    found, end = [], end_token(tokenizer)
    for number, messages in enumerate(messages_of(path)):
        *asked, reply = messages
        said = tokenizer.encode(reply["content"], add_special_tokens=False)
        lesson = Tokens(list(builder.build_initial_tokens(asked)), [*said, end])
        kept = tokenizer.decode(lesson.reply, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if kept != reply["content"]:
            raise LessonError(
                f"{path}, row {number}: the model's tokenizer reads {shown(reply['content'])} as {shown(tokenizer.decode(lesson.reply))}: a special "
                "token in a reply would end it early, and a text that is not kept would teach another one; leave the row out"
            )
        if (length := len(lesson.prompt) + len(lesson.reply)) > longest:
            raise LessonError(
                f"{path}, row {number}: {length} tokens, more than data.max_length={longest}: set it higher, or leave the row out"
            )
        found.append(lesson)
    return found


class Lessons(Dataset):
    """Rows as verl's trainer takes them: 1-D tensors input_ids, position_ids and loss_mask (1: learned) of one length."""

    def __init__(self, tokens: Sequence[tuple[list[int], list[int]]]) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        prompt, reply = self.tokens[number]
        return {
            "input_ids": torch.tensor([*prompt, *reply]),
            "position_ids": torch.arange(len(prompt) + len(reply)),
            "loss_mask": torch.tensor([0] * len(prompt) + [1] * len(reply)),
        }


def save_adapter(module: torch.nn.Module, model: str, folder: Path) -> None:
    """Write a taught adapter as peft does, in bfloat16, as it is used in training and by servers. Every process calls it, the first one writes.

    Args:
        module: the sharded PeftModel.
        model: what the adapter belongs on, as the job's command names it.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    weights = {}
    for name, weight in get_peft_model_state_dict(module).items():
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        weights[name] = whole.detach().to("cpu", torch.bfloat16).contiguous()
    if torch.distributed.get_rank() == 0:
        settings = module.peft_config["default"]
        settings.base_model_name_or_path, settings.inference_mode = model, True
        settings.save_pretrained(folder)
        save_file(weights, folder / WEIGHTS, {"format": "pt"})


def main(config_file: Path) -> None:
    from omegaconf import OmegaConf
    from verl.plugin.platform import get_platform
    from verl.trainer.sft_trainer import SFTTrainer
    from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

    from ccpo.verl_gpu import head

    class RolesTrainer(SFTTrainer):
        """verl's trainer, on the lessons that were tokenized when they were checked."""

        def _build_dataset(self) -> None:
            tokens = torch.load(config_file.with_name(TOKENS), weights_only=True)
            self.train_dataset, self.val_dataset = Lessons(tokens["train"]), Lessons(tokens["val"])

    config = OmegaConf.load(config_file)
    if get_platform().device_name == "cpu":  # verl would ask torch for "cpu:gloo,cpu:gloo", which names a device twice
        torch.distributed.init_process_group("cpu:gloo")
    else:
        initialize_global_process_group()
    head.install()
    trainer = RolesTrainer(config)
    trainer.fit()
    if config.model.lora_rank:
        save_adapter(trainer.engine.module, str(config.model.path), config_file.with_name(ADAPTER))
    destroy_global_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "config",
        type=Path,
        help="the resolved configuration, with the tokens beside it, as recipe/main_sft.py writes them",
    )
    main(parser.parse_args().config)
