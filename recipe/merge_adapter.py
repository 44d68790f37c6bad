"""A model with a LoRA adapter merged into it, as a model of its own.

    python recipe/merge_adapter.py MODEL ADAPTER OUT

MODEL is a folder or a hub id, ADAPTER a folder that peft has saved. The product of the adapter's two matrices is taken in float64 and added in
float32, so that no machine's order of sums shows in the weights. OUT appears when it is complete, with MODEL's tokenizer, and nothing is written over it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

WEIGHTS = "adapter_model.safetensors"  # peft's name


def merge(model: str | Path, adapter: Path, target: Path, trust_remote_code: bool = False) -> None:
    """Writes ``model`` with ``adapter`` into the folder ``target``: weights in float32, configuration, generation configuration.

    Raises ValueError: an adapter of more than LoRA's two matrices, on an embedding or on the output layer (which may be one and the same tensor),
    or one that is not finite.
    """
    import torch
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    with safe_open(adapter / WEIGHTS, "pt") as file:
        if other := [name for name in file.keys() if not name.endswith((".lora_A.weight", ".lora_B.weight"))]:
            raise ValueError(f"{adapter} has more than LoRA's two matrices of linear layers: {', '.join(other[:3])}")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=trust_remote_code)
    ends = (base.get_output_embeddings(), base.get_input_embeddings())
    names = [name for name, module in base.named_modules() if module in ends]
    whole = PeftModel.from_pretrained(base, adapter)
    for name, weight in whole.named_parameters():
        if ".lora_" in name:
            if any(f".{end}.lora_" in name for end in names):
                raise ValueError(f"{adapter} changes {name}, and the model may use that tensor twice")
            weight.data = weight.data.double()
    whole.merge_and_unload(safe_merge=True).save_pretrained(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("adapter", type=Path, help="folder with adapter_config.json")
    parser.add_argument("out", type=Path)
    parser.add_argument("--trust-remote-code", action="store_true", help="run the model's own code")
    options = parser.parse_args()
    if options.out.exists():
        sys.exit(f"error: {options.out} exists, and nothing is written over it: choose another OUT")
    for name in ("adapter_config.json", WEIGHTS):
        if not (options.adapter / name).is_file():
            sys.exit(f"error: {options.adapter} has no {name}: it is no adapter that peft has saved")
    if "/" in options.model and options.model.count("/") != 1 and not Path(options.model).is_dir():
        sys.exit(f"error: {options.model}: there is no such folder")
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    part = options.out.with_name(f"{options.out.name}.unfinished")
    try:
        merge(options.model, options.adapter, part, options.trust_remote_code)
        AutoTokenizer.from_pretrained(options.model, trust_remote_code=options.trust_remote_code).save_pretrained(part)
    except (
        ValueError,
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # what is missing, unreadable, or does not fit
        sys.exit(f"error: {' '.join(str(error).split())[:300]}")
    part.rename(options.out)
    print(f"{options.out}: {options.model} with {options.adapter}")


if __name__ == "__main__":
    main()
