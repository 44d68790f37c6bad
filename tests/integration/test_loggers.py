"""Loggers beside our own file: what they lack is named before anything starts, and names and settings arrive in them."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402

from ccpo.verl_plugin import lookups, values  # noqa: E402
from ccpo.verl_plugin.names import name_run  # noqa: E402

ROOT = Path(__file__).parents[2]
KEY = "k" * 40


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A machine on which nobody has logged in anywhere."""
    for name in os.environ:
        if name.startswith(("WANDB_", "SWANLAB_", "CLEARML_", "VOLC_", "MLP_", "NETRC")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    there = {*values.LOGGERS.values()}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: True if name in there else found(name, *more))
    return tmp_path


@pytest.mark.parametrize("name", sorted({*values.LOGGERS} - {"tracking", "vemlp_wandb"}))
def test_a_logger_that_is_not_installed_is_named(cpu_config, monkeypatch, name):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked, *more: None if asked == name else found(asked, *more)
    )
    cpu_config.trainer.logger = ["console", name]
    (text,) = values.problems(cpu_config)
    assert f"trainer.logger has {name}, which is not installed: pip install {name}" in text
    assert lookups.problems(cpu_config) == [], "once is enough"


@pytest.mark.parametrize(
    "name, says",
    [
        ("wandb", "no login for api.wandb.ai: run wandb login, set WANDB_API_KEY, or WANDB_MODE=offline"),
        ("tracking", "WANDB_API_KEY"),
        ("swanlab", "run swanlab login, set SWANLAB_API_KEY, or SWANLAB_MODE=local"),
        ("clearml", "run clearml-init"),
        ("vemlp_wandb", "VOLC_ACCESS_KEY_ID, VOLC_SECRET_ACCESS_KEY, MLP_TRACKING_REGION must be set"),
    ],
)
def test_a_missing_login_is_named(cpu_config, nobody, name, says):
    for loggers in (name, ["console", name], [name, name]):
        cpu_config.trainer.logger = loggers
        (text,) = lookups.problems(cpu_config)
        assert text.startswith(f"trainer.logger has {name}: ") and says in text


@pytest.mark.parametrize("name", ["console", "file", "tensorboard", "mlflow", "trackio"])
def test_others_need_none(cpu_config, nobody, name):
    cpu_config.trainer.logger = [name]
    assert lookups.problems(cpu_config) == []


@pytest.mark.parametrize(
    "name, setting, value",
    [
        ("wandb", "WANDB_API_KEY", KEY),
        ("wandb", "WANDB_MODE", "offline"),
        ("wandb", "WANDB_MODE", "disabled"),
        ("swanlab", "SWANLAB_API_KEY", KEY),
        ("swanlab", "SWANLAB_MODE", "local"),
        ("clearml", "CLEARML_OFFLINE_MODE", "1"),
    ],
)
def test_what_is_set_is_enough(cpu_config, nobody, monkeypatch, name, setting, value):
    monkeypatch.setenv(setting, value)
    cpu_config.trainer.logger = [name]
    assert lookups.problems(cpu_config) == []


@pytest.mark.parametrize(
    "name, path, content, enough",
    [
        ("wandb", ".netrc", f"machine api.wandb.ai\n  login user\n  password {KEY}\n", True),
        ("wandb", ".netrc", f"machine other.host\n  login user\n  password {KEY}\n", False),
        ("wandb", ".netrc", "machine machine machine", False),
        ("wandb", ".netrc", "", False),
        ("wandb", "wandb/settings", "[default]\nmode = offline\ndisabled = true\n", True),
        ("wandb", ".config/wandb/settings", "[default]\nbase_url = https://mine.org\n", False),
        ("wandb", ".config/wandb/settings", "no ini \0", False),
        ("swanlab", ".swanlab/.netrc", f"machine https://api.swanlab.cn\n  login x\n  password {KEY}\n", True),
        ("clearml", "clearml.conf", "api {}", True),
    ],
)
def test_where_their_own_packages_look(cpu_config, nobody, name, path, content, enough):
    (nobody / path).parent.mkdir(parents=True, exist_ok=True)
    (nobody / path).write_text(content)
    (nobody / path).chmod(0o600)
    cpu_config.trainer.logger = [name]
    found = lookups.problems(cpu_config)
    assert (found == []) == enough and KEY not in str(found)


LOG = """
import json, sys
from omegaconf import OmegaConf
from verl.utils.tracking import Tracking

from ccpo.verl_plugin.loggers import settings_to_tensorboard

config = OmegaConf.load(sys.argv[1])
settings_to_tensorboard(config)
tracking = Tracking(config.trainer.project_name, config.trainer.experiment_name, list(config.trainer.logger), OmegaConf.to_container(config))
for step in (1, 2):
    tracking.log({"credit/think": step / 4, "val-core/team": 0.5}, step)
tracking.finish()
"""


@pytest.fixture
def logged(in_fork, tmp_path):
    """logged(config): as verl's trainer logs, in a process of its own: some loggers leave one behind."""
    own = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}

    def log(config) -> None:
        name_run(config)
        OmegaConf.save(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), tmp_path / "config.yaml")
        (tmp_path / "log.py").write_text(LOG)
        done = in_fork([tmp_path / "log.py", tmp_path / "config.yaml"], tmp_path, **own)
        assert done.returncode == 0, done.stderr

    return log


def log_records(data: bytes):
    """Records of a LevelDB log, which an offline wandb run is, behind 7 bytes of its own: (checksum, length, kind) before each part."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # parts do not cross blocks
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_names_settings_and_numbers_arrive_in_tensorboard_and_in_wandb(cpu_config, logged, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    cpu_config.trainer.logger = ["tensorboard", "wandb"]
    logged(cpu_config)

    folder = tmp_path / "tensorboard_log" / "ccpo" / cpu_config.trainer.experiment_name
    assert "dyad-counterfactual-one_policy" in folder.name
    read = events.EventAccumulator(str(folder))
    read.Reload()
    assert [(found.step, found.value) for found in read.Scalars("credit/think")] == [(1, 0.25), (2, 0.5)]
    (text,) = read.Tensors("settings/text_summary")
    settings = OmegaConf.create(textwrap.dedent(text.tensor_proto.string_val[0].decode()))
    assert settings == OmegaConf.to_container(cpu_config, resolve=True)

    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    run, config, history = None, {}, []
    for data in log_records(path.read_bytes()):
        entry = pb.Record()
        entry.ParseFromString(data)
        if entry.WhichOneof("record_type") == "run":
            run = entry.run
            config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif entry.WhichOneof("record_type") == "history":
            history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in entry.history.item})
    assert (run.project, run.display_name) == ("ccpo", cpu_config.trainer.experiment_name)
    assert config["ccpo"] == OmegaConf.to_container(cpu_config.ccpo, resolve=True)
    assert config["ccpo"]["seed"] == 0 and config["actor_rollout_ref"]["actor"]["optim"]["lr"] == 3e-4
    assert [row["credit/think"] for row in history] == [0.25, 0.5]
