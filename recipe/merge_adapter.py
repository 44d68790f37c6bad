"""A model with a LoRA adapter merged into it, as a model of its own.

    python recipe/merge_adapter.py MODEL ADAPTER OUT

MODEL is a folder or a hub id, ADAPTER a folder that peft has saved. The product of the adapter's two matrices is taken in float64 and added in
float32, so that no machine's order of sums shows in the weights. OUT appears when it is complete, with MODEL's tokenizer, and nothing is written over it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names


def merge(model: str | Path, adapter: Path, target: Path, trust_remote_code: bool = False) -> None:
    """Writes ``model`` with ``adapter`` into the folder ``target``: weights in float32, configuration, generation configuration.

    Raises ValueError: an adapter of more than LoRA's two matrices, of another model, on an embedding or on the output layer (which may be one and the
    same tensor), or one that is not finite.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    _check_settings(adapter)
    with safe_open(adapter / WEIGHTS, "pt") as file:
        names = set(file.keys())
    if other := sorted(name for name in names if not name.endswith((".lora_A.weight", ".lora_B.weight"))):
        raise ValueError(f"{adapter} has more than LoRA's two matrices of linear layers: {', '.join(other[:3])}")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=trust_remote_code)
    if bad := on_the_ends(ends_of(base), names):
        raise ValueError(f"{adapter} changes an embedding or the output layer, which may be one tensor: {bad[0]}")
    try:
        whole = PeftModel.from_pretrained(base, adapter)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{adapter / SETTINGS} is not one that peft reads ({error!r})") from None
    if different := names ^ set(get_peft_model_state_dict(whole)):
        raise ValueError(
            f"{adapter} is none of {model}: {len(different)} matrices of either have no place in the other ({min(different)}); take the model that it "
            "was taught on"
        )
    for name, weight in whole.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.double()
    whole.merge_and_unload(safe_merge=True).save_pretrained(target)
    for file in target.glob("*.safetensors"):  # which are written for the owner alone
        file.chmod(0o644)


def ends_of(model: Any) -> list[str]:
    """Names of a model's embedding and output layer, before an adapter is put on it."""
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    return [name for name, module in model.named_modules() if module in ends]


def on_the_ends(ends: Sequence[str], names: Iterable[str]) -> list[str]:
    """Those of an adapter's parameters that are on one of ``ends``."""
    return sorted(name for name in names if any(f".{end}.lora_" in name for end in ends))


def _check_settings(adapter: Path) -> None:
    """Raises ValueError for settings that peft has not saved, or of another kind of adapter."""
    from peft import PeftConfig

    try:
        kind = PeftConfig.from_pretrained(adapter).peft_type
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{adapter / SETTINGS} is not one that peft has saved ({error!r})") from None
    if kind != "LORA":
        raise ValueError(
            f"{adapter} is an adapter of the kind {getattr(kind, 'value', kind)}, and only LoRA's are merged here"
        )


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("adapter", type=Path, help=f"folder with {SETTINGS}")
    parser.add_argument("out", type=Path)
    parser.add_argument("--trust-remote-code", action="store_true", help="run the model's own code")
    return parser.parse_args(argv)


def main() -> None:
    options = options_of()
    if os.path.lexists(options.out):
        sys.exit(f"error: {options.out} exists, and nothing is written over it: choose another OUT")
    for name in (SETTINGS, WEIGHTS):
        if not (options.adapter / name).is_file():
            sys.exit(f"error: {options.adapter} has no {name}: take a folder that peft has saved as safetensors")
    if "/" in options.model and options.model.strip("/").count("/") != 1 and not Path(options.model).is_dir():
        sys.exit(f"error: {options.model}: there is no such folder")
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.out.parent, prefix=f"{options.out.name}.") as room:
            made = Path(room) / "made"
            merge(options.model, options.adapter, made, options.trust_remote_code)
            ask = {"trust_remote_code": options.trust_remote_code}
            AutoTokenizer.from_pretrained(options.model, **ask).save_pretrained(made)
            made.rename(options.out)
    except (
        ValueError,
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # what is missing, unreadable, or does not fit
        sys.exit(f"error: {' '.join(str(error).split())[:300]}")
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was written")
    print(f"{options.out}: {options.model} with {options.adapter}")


if __name__ == "__main__":
    main()
