"""The shipped YAML files and every override in a script, against verl's own configuration and the dataclasses."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("verl")

import hydra  # noqa: E402
from hydra.errors import ConfigCompositionException  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from ccpo.config import CcpoConfig, ConfigError  # noqa: E402

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "recipe" / "config"
PROFILES = sorted(path.stem for path in (CONFIG / "profile").glob("*.yaml"))
TASKS = sorted(path.stem for path in (CONFIG / "task").glob("*.yaml"))
TOPOLOGIES = ["ccpo_dyad", "ccpo_vote"]
SCRIPTS = sorted([*ROOT.glob("recipe/*.sh"), *ROOT.glob("scripts/*.sh"), *ROOT.glob("scripts/*.py")])
OPEN = re.compile(r"ray_kwargs\.ray_init\.|.*\.(override_config|mixed_precision)\.")
"""Sections that verl hands on as they are: it lists none of their keys."""


def leaves(node, path: str = "") -> dict[str, object]:
    if not isinstance(node, dict) or not node:
        return {path: node}
    return {
        k: v for key, value in node.items() for k, v in leaves(value, f"{path}.{key}" if path else str(key)).items()
    }


def ccpo(config) -> CcpoConfig:
    return CcpoConfig.from_dict(OmegaConf.to_container(config.ccpo, resolve=True), config.actor_rollout_ref.rollout.n)


@pytest.fixture(scope="module")
def default(compose):
    return compose()


@pytest.fixture(scope="module")
def known_to_verl():
    """Whether verl's ppo_trainer has this key."""
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        names = set(leaves(OmegaConf.to_container(hydra.compose("ppo_trainer"))))
    return lambda name: name in names


def test_every_file_is_a_profile_a_task_or_named_here():
    assert (PROFILES, TASKS) == (["cpu", "gpu"], ["gsm8k", "last_digit", "logiqa", "math"])
    assert {path.name for path in CONFIG.glob("*.yaml")} == {
        "team.yaml",
        "agent_loops.yaml",
        *(f"{name}.yaml" for name in TOPOLOGIES),
    }


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_profile_runs_every_task_with_every_topology(compose, profile, task, topology):
    config = compose(f"profile={profile}", f"task={task}", name=topology)
    ccpo(config)
    assert config.actor_rollout_ref.rollout.agent.default_agent_loop == topology
    assert config.trainer.v1.trainer_mode == "ccpo_sync"
    assert config.algorithm.adv_estimator == "ccpo"
    assert all(name.startswith("reward.reward_model.") for name in OmegaConf.missing_keys(config)), (
        "of a switched-off section"
    )


@pytest.mark.parametrize(("name", "loop"), [("ccpo_dyad", "DyadAgentLoop"), ("ccpo_vote", "VoteAgentLoop")])
def test_the_agent_loop_exists(compose, name, loop):
    loops = {entry["name"]: entry["_target_"] for entry in yaml.safe_load((CONFIG / "agent_loops.yaml").read_text())}
    target = hydra.utils.get_class(loops[compose(name=name).actor_rollout_ref.rollout.agent.default_agent_loop])
    assert target.__name__ == loop


@pytest.mark.parametrize(
    "file", ["team", *(f"profile/{name}" for name in PROFILES), *(f"task/{name}" for name in TASKS)]
)
def test_every_setting_is_one_verl_knows(file, known_to_verl):
    """Hydra refuses unknown keys on the command line, not in a file: a misspelt one would do nothing."""
    node = yaml.safe_load((CONFIG / f"{file}.yaml").read_text())
    names = [
        name for name in leaves(node) if not name.startswith(("defaults", "hydra.", "ccpo.")) and not OPEN.match(name)
    ]
    assert names and [name for name in names if not known_to_verl(name)] == []


def test_the_ccpo_node_states_the_defaults():
    written = leaves(yaml.safe_load((CONFIG / "team.yaml").read_text())["ccpo"])
    defaults = leaves(dataclasses.asdict(CcpoConfig()))
    assert set(written) == set(defaults), "every setting is listed, and no other"
    differing = {name for name in written if written[name] != ([] if defaults[name] == () else defaults[name])}
    open_names = {"topology", "prompts", "credit.rule"}
    assert differing == open_names and {written[name] for name in open_names} == {"???"}
    for topology in TOPOLOGIES:
        stated = leaves(yaml.safe_load((CONFIG / f"{topology}.yaml").read_text())["ccpo"])
        assert set(stated) == {"topology", "credit.rule"}
    for task in TASKS:  # gsm8k has math's
        text = (CONFIG / "task" / f"{task}.yaml").read_text()
        assert "prompts:" in text or "- math" in text


def test_unknown_keys_are_refused(compose):
    with pytest.raises(ConfigCompositionException, match="ccpo.credit.rul"):
        compose("ccpo.credit.rul=shared")
    with pytest.raises(ConfigError, match="did you mean ccpo.credit.rule?"):
        ccpo(compose("+ccpo.credit.rul=shared"))


@pytest.mark.parametrize("script", sorted(ROOT.glob("recipe/*.sh")), ids=lambda path: path.name)
def test_what_a_recipe_runs_composes(script, compose):
    """DRY_RUN=1 prints the command; its values must arrive."""
    environment = {**os.environ, "DRY_RUN": "1", "SEED": "7", "DATA": "my data", "OUT": "out", "MODEL": "org/model"}
    done = subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    command = shlex.split(done.stdout)
    words = command[command.index("recipe/main_ccpo.py") + 1 :]
    assert words[0] == "--config-name"
    name, words = words[1], words[2:]
    config = compose(*words, name=name)
    assert name == {"run_ccpo": "ccpo_dyad"}.get(script.stem, script.stem.removeprefix("run_"))
    assert config.data.seed == config.actor_rollout_ref.rollout.seed == 7
    assert config.data.train_files == "my data/train.parquet" and config.trainer.default_local_dir == "out"
    assert config.actor_rollout_ref.model.path == "org/model"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_override_names_in_scripts_exist(script, default):
    """Every dotted name=value and every quoted dotted name that begins with a section of the configuration."""
    sections = "|".join(default)
    names = re.findall(rf"[\"'\s]((?:{sections})(?:\.\w+)+)(?==|[\"'])", script.read_text())
    for name in names:
        name = re.sub(r"^ccpo\.roles\.voter_\d+", "ccpo.roles.think", name)  # voters are added, with the same fields
        assert OmegaConf.select(default, name, default=KeyError) is not KeyError, name
    if script.name in ("quickstart.py", "run_ccpo.sh"):
        assert len(names) >= 5


def test_what_quickstart_runs_composes(compose, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import quickstart

    options = quickstart._options(
        ["--seed", "7", "--rule", "shared", "--out", "a b's", "--", "data.train_batch_size=8"]
    )
    config = compose(*quickstart.TRAINER[2:], *quickstart._overrides(options))
    assert Path(config.trainer.default_local_dir) == Path("a b's").absolute()
    assert (config.ccpo.seed, config.data.seed, config.data.train_batch_size) == (7, 7, 8)
    assert ccpo(config).credit.rule == "shared"
