"""The file with a name is the one that is read, whatever the datasets library would make of the name."""

from __future__ import annotations

import os

import pytest
from omegaconf import OmegaConf

datasets = pytest.importorskip("datasets")
pytest.importorskip("verl")

import pyarrow  # noqa: E402
import pyarrow.parquet as parquet  # noqa: E402

from ccpo.verl_plugin.plain_names import plain_names  # noqa: E402


def write(path, rows):
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.table({"a": list(range(rows))}), path)


@pytest.mark.parametrize(
    "name", ["[2024] run", "a*b", "a?b", "**", "$HOME", "a::b", "a[b", "plain", "ä ö", "{a,b}", "~x"]
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_data_folder_of_any_name_is_read_and_no_other(tmp_path, monkeypatch, name, relative):
    write(tmp_path / name / "train.parquet", 3)
    write(tmp_path / "axb" / "train.parquet", 5)  # what a pattern finds
    monkeypatch.chdir(tmp_path)
    named = f"{name}/train.parquet" if relative else str(tmp_path / name / "train.parquet")
    config = OmegaConf.create({"train_files": named, "val_files": [named, "axb/train.parquet"]})
    with plain_names(config):
        counts = [
            len(datasets.load_dataset("parquet", data_files=path, cache_dir=str(tmp_path / "cache"))["train"])
            for path in (*config.train_files, *config.val_files)
        ]
        links = [path for path in config.train_files if os.path.islink(path)]
    assert counts == [3, 3, 5]
    assert config == {"train_files": named, "val_files": [named, "axb/train.parquet"]}
    assert not any(map(os.path.lexists, links)), "nothing is left"


def test_what_is_not_on_this_machine_stays_as_it_is():
    config = OmegaConf.create({"train_files": "hdfs://a::b/train.parquet", "val_files": []})
    with plain_names(config):
        assert config.train_files == ["hdfs://a::b/train.parquet"]
