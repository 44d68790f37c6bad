"""A model of random weights in the shape of a public one, where no weights are at hand.

    .venv/bin/python benchmarks/shapes.py qwen2.5-1.5b --tokenizer MODEL --out qwen2.5-1.5b

It times as the real one does, and says nothing. The shapes alone serve arithmetic without any model (benchmarks/scaling.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.verl_gpu.memory import Shape

SHAPES = {  # layers, hidden, feed-forward, heads, key-value heads, vocabulary, embeddings tied: the models' public configurations
    "smollm2-135m": (30, 576, 1536, 9, 3, 49_152, True),  # a Llama: as a Qwen2 it has biases, .02 % more parameters
    "qwen2.5-0.5b": (24, 896, 4864, 14, 2, 151_936, True),
    "qwen2.5-1.5b": (28, 1536, 8960, 12, 2, 151_936, True),
    "qwen2.5-3b": (36, 2048, 11008, 16, 2, 151_936, True),
    "qwen2.5-7b": (28, 3584, 18944, 28, 4, 152_064, False),
    "qwen2.5-14b": (48, 5120, 13824, 40, 8, 152_064, False),
    "qwen2.5-32b": (64, 5120, 27648, 40, 8, 152_064, False),
}


def sizes(shape: str) -> Shape:
    """What `memory.shape_of` finds, without transformers."""
    layers, hidden, inner, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    key = hidden // heads * kv_heads
    attention = 2 * hidden * hidden + 2 * hidden * key + hidden + 2 * key  # weights, and biases of query, key and value
    layer = attention + 3 * hidden * inner + 2 * hidden
    parameters = layers * layer + hidden + vocabulary * hidden * (1 if tied else 2)
    return Shape(parameters, layers, hidden, inner, hidden, key, vocabulary)


def config_of(shape: str, layers: int | None = None):
    """A transformers configuration."""
    from transformers import Qwen2Config

    depth, hidden, inner, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    return Qwen2Config(
        num_hidden_layers=layers or depth,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32_768,
        rope_theta=1e6,
        architectures=["Qwen2ForCausalLM"],
    )


def write(shape: str, folder: Path, tokenizer: str) -> Path:
    """A model folder with random bfloat16 weights and somebody else's tokenizer, whose ids are all below the vocabulary's size."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (folder / "config.json").exists():
        return folder
    config = config_of(shape)
    words = AutoTokenizer.from_pretrained(tokenizer)
    config.eos_token_id, config.pad_token_id = words.eos_token_id, words.pad_token_id
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--tokenizer", required=True, metavar="MODEL", help="whose words it gets: a folder or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists already: choose another --out")
    try:
        print(write(options.shape, options.out, options.tokenizer))
    except (OSError, ValueError) as error:
        parser.error(f"--tokenizer {options.tokenizer}: {error}")


if __name__ == "__main__":
    main()
