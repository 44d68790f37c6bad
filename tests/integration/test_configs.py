"""The shipped YAML files and every override in a script, against verl's own configuration and the dataclasses."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("verl")

import hydra  # noqa: E402
from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from hydra.errors import ConfigCompositionException  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from ccpo.config import CcpoConfig, ConfigError, RoleConfig  # noqa: E402
from ccpo.run.folder import run_folder  # noqa: E402
from ccpo.verl_plugin import fit, lookups, relations, values  # noqa: E402

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "recipe" / "config"
PROFILES = sorted(path.stem for path in (CONFIG / "profile").glob("*.yaml"))
TASKS = sorted(path.stem for path in (CONFIG / "task").glob("*.yaml"))
LOSSES = sorted(path.stem for path in (CONFIG / "loss").glob("*.yaml"))
NAMES = {"ccpo_dyad": [], "ccpo_vote": [], "ccpo": ["ccpo.team=vote"]}  # and what each needs
SCRIPTS = sorted([*ROOT.glob("recipe/*.sh"), *ROOT.glob("scripts/*.sh"), *ROOT.glob("scripts/*.py")])
ODD = "it's [a] {b}, $c=(d) #2024\\"
OPEN = re.compile(
    r"ray_kwargs\.ray_init\.|.*\.(override_config|override_optimizer_config|mixed_precision)\.|.*\.agent_loop_manager_class$"
)
"""Sections that verl hands on as they are: it lists none of their keys. And one that verl reads and lists nowhere (main_ppo.py)."""


def leaves(node, path: str = "") -> dict[str, object]:
    if not isinstance(node, dict) or not node:
        return {path: node}
    return {
        k: v for key, value in node.items() for k, v in leaves(value, f"{path}.{key}" if path else str(key)).items()
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


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


def test_every_file_is_one_of_a_choice_or_named_here():
    assert (PROFILES, TASKS) == (
        ["cpu", "gpu"],
        ["gsm8k", "gsm8k_taught", "last_digit", "logiqa", "math", "partial_gsm8k", "silence"],
    )
    assert LOSSES == ["paper_v1", "token_mean"]
    assert {path.name for path in CONFIG.glob("*.yaml")} == {
        "team.yaml",
        "agent_loops.yaml",
        "router.yaml",
        *(f"{name}.yaml" for name in NAMES),
    }


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_profile_runs_every_task_with_every_team(compose, profile, task, name):
    prompts = ["ccpo.prompts=math"] if (name, task) == ("ccpo_dyad", "partial_gsm8k") else []  # a task for votes
    loss = f"loss={'paper_v1' if name == 'ccpo' else 'token_mean'}"
    config = compose(f"profile={profile}", f"task={task}", loss, *NAMES[name], *prompts, name=name)
    ccpo(config)
    assert config.trainer.v1.trainer_mode == "ccpo_sync"
    assert config.algorithm.adv_estimator == "ccpo"
    assert all(missing.startswith("reward.reward_model.") for missing in OmegaConf.missing_keys(config)), (
        "of a switched-off section"
    )
    fit.settle(config)  # values that a GPU profile leaves to the plan
    assert (values.problems(config), relations.problems(config), values.verls_own_problems(config)) == ([], [], [])
    assert lookups.problems(config) == []


PLAIN = """
import sys, hydra
from omegaconf import OmegaConf
for line in sys.stdin:
    name, *words = line.rstrip("\\n").split("\\t")
    with hydra.initialize_config_dir(sys.argv[1], version_base=None):
        print(OmegaConf.to_yaml(hydra.compose(name, overrides=words)), end="\\0")
"""
COMMANDS = (
    ("ccpo_dyad", "profile=cpu", "task=last_digit"),
    ("ccpo_dyad", "task=last_digit", "profile=cpu", "trainer.total_epochs=3"),
    ("ccpo_vote", "profile=gpu", "start=quick", "ccpo.credit.rule=shapley", "+ccpo.extra={a: 1}"),
    ("ccpo_vote", "profile=gpu", "start=full", "~trainer.logger", "seed=7"),
    ("ccpo_dyad", "profile=gpu", "+trainer.new=1", "data.train_files=[a,b]"),
)


@pytest.mark.slow
def test_what_the_tests_compose_is_what_hydra_composes(compose):
    """`compose` remembers what Hydra has read, chosen and merged."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = "".join("\t".join(command) + "\n" for command in COMMANDS)
    command = [sys.executable, "-c", PLAIN, str(ROOT / "recipe" / "config")]
    done = subprocess.run(command, input=words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    for (name, *given), plain in zip(COMMANDS, done.stdout.split("\0"), strict=False):
        for _ in range(2):
            assert OmegaConf.to_yaml(compose(*given, name=name)) == plain, given


def test_the_agent_loop_exists(compose):
    (entry,) = yaml.safe_load((CONFIG / "agent_loops.yaml").read_text())
    assert compose().actor_rollout_ref.rollout.agent.default_agent_loop == entry["name"]
    assert hydra.utils.get_class(entry["_target_"]).__name__ == "TeamAgentLoop"


def test_the_papers_loss_is_one_word_away(compose):
    ours, theirs = (compose(*words).actor_rollout_ref.actor for words in ([], ["loss=paper_v1"]))
    assert (ours.loss_agg_mode, ours.policy_loss.loss_mode) == ("token-mean", "vanilla")
    assert (theirs.loss_agg_mode, theirs.policy_loss.loss_mode) == ("seq-mean-token-mean", "gspo")
    assert theirs.optim.lr_warmup_steps == 10


@pytest.mark.parametrize(
    "file",
    [
        "team",
        *(f"profile/{name}" for name in PROFILES),
        *(f"task/{name}" for name in TASKS),
        *(f"loss/{name}" for name in LOSSES),
    ],
)
def test_every_setting_is_one_verl_knows(file, known_to_verl):
    """Hydra refuses unknown keys on the command line, not in a file: a misspelt one would do nothing."""
    node = yaml.safe_load((CONFIG / f"{file}.yaml").read_text())
    names = [
        name
        for name in leaves(node)
        if not name.startswith(("defaults", "hydra.", "ccpo.", "seed")) and not OPEN.match(name)
    ]
    assert names and [name for name in names if not known_to_verl(name)] == []


def test_the_ccpo_node_states_the_defaults():
    written = leaves(yaml.safe_load((CONFIG / "team.yaml").read_text())["ccpo"])
    defaults = leaves(dataclasses.asdict(CcpoConfig()))
    assert set(written) == set(defaults), "every setting is listed, and no other"
    differing = {name for name in written if _plain(written[name]) != _plain(defaults[name])}
    assert differing == {"team", "prompts", "credit.rule"} and written["team"] == written["prompts"] == "???"
    assert written["credit.rule"] == "removal", "a rule that fits any team"
    for task in TASKS:  # gsm8k has math's
        text = (CONFIG / "task" / f"{task}.yaml").read_text()
        assert "prompts:" in text or "- math" in text or "- gsm8k" in text


def test_unknown_keys_are_refused(compose):
    with pytest.raises(ConfigCompositionException, match="ccpo.credit.rul"):
        compose("ccpo.credit.rul=shared")
    with pytest.raises(ConfigError, match="did you mean ccpo.credit.rule?"):
        ccpo(compose("+ccpo.credit.rul=shared"))


@pytest.mark.parametrize("script", sorted(ROOT.glob("recipe/run_ccpo*.sh")), ids=lambda path: path.name)
def test_what_a_recipe_runs_composes(script, compose):
    """DRY_RUN=1 prints the command; its values must arrive."""
    environment = {**os.environ, "DRY_RUN": "1", "SEED": "7", "DATA": "my data", "OUT": ODD, "MODEL": "org/model"}
    done = subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    command = shlex.split(done.stdout)
    words = command[command.index("recipe/main_ccpo.py") + 1 :]
    assert words[0] == "--config-name"
    name, words = words[1], words[2:]
    config = compose(*words, name=name)
    assert name == {"run_ccpo": "ccpo_dyad"}.get(script.stem, script.stem.removeprefix("run_"))
    assert {
        config.data.seed,
        config.actor_rollout_ref.rollout.seed,
        config.actor_rollout_ref.actor.data_loader_seed,
    } == {7}
    assert config.actor_rollout_ref.actor.fsdp_config.seed == 7
    assert config.data.train_files == "my data/train.parquet" and config.trainer.default_local_dir == ODD
    assert config.actor_rollout_ref.model.path == "org/model"


NAMES_OF_FOLDERS = [
    *(
        "2024",
        "1e3",
        "null",
        "true",
        "nan",
        "0x10",
        "a=b",
        "a,b",
        "(a)",
        "a:b",
        "a;b",
        "a b",
        " a",
        "a ",
        "-a",
        "--a",
        "~a",
        "+a",
        "!a",
    ),
    *(
        "it's",
        "''",
        'a"b',
        "{}",
        "{a: 1}",
        "[]",
        "[1, 2]",
        "#a",
        "a #b",
        "$HOME",
        "$",
        "%41",
        "*",
        "?",
        "&",
        "|",
        "`id`",
        "<a>",
        "ä ö",
        "数",
    ),
    *(
        "a\\b",
        "a\\\\b",
        "a\\",
        "a\\\\",
        "a\\'",
        "a\\\\'b'",
        "\\'",
        "a\tb",
        "a\nb",
        "glob(*)",
        "choice(a,b)",
        "int(1)",
        "'a'",
        "\\$HOME",
    ),
]


def read(words: list[str]) -> dict[str, object]:
    """What hydra and omegaconf, and verl's resolution of it, make of overrides."""
    parser = OverridesParser.create()
    overrides = [parser.parse_override(word) for word in words]
    config = OmegaConf.create({override.key_or_group: override.value() for override in overrides})
    OmegaConf.resolve(config)
    return dict(OmegaConf.to_container(config))


@pytest.mark.parametrize("name", NAMES_OF_FOLDERS)
def test_a_folder_of_any_name_is_used_as_it_is_called(name, monkeypatch):
    environment = {**os.environ, "DRY_RUN": "1", "DATA": name, "OUT": name, "MODEL": name, "TEAM": f"{name}/a.py:A"}
    command = ["bash", str(ROOT / "recipe" / "run_ccpo.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    printed = subprocess.run(  # %q may write $'..', which is bash's own
        ["bash", "-c", f"printf '%s\\0' {done.stdout.decode()}"], capture_output=True, check=True
    )
    words = printed.stdout.decode().rstrip("\0").split("\0")
    found = read(words[words.index("--config-name") + 2 :])
    assert found["data.train_files"] == f"{name}/train.parquet" and found["data.val_files"] == f"{name}/test.parquet"
    assert found["trainer.default_local_dir"] == found["actor_rollout_ref.model.path"] == name
    assert found["ccpo.team"] == f"{name}/a.py:A"

    monkeypatch.syspath_prepend(ROOT / "scripts")
    import quickstart

    assert read([f"trainer.default_local_dir={quickstart._hydra_quoted(name)}"]) == {"trainer.default_local_dir": name}


@pytest.mark.parametrize("name", ["${HOME}", "a${", "\\${x}"])
def test_the_one_name_that_verl_cannot_keep_is_refused(name, monkeypatch):
    for variable in ("DATA", "OUT", "MODEL", "TEAM"):
        environment = {**os.environ, "DRY_RUN": "1", variable: name}
        done = subprocess.run(
            ["bash", str(ROOT / "recipe" / "run_ccpo.sh")], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and f"{name}: a name with ${{ cannot be used" in done.stderr and not done.stdout
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import quickstart

    with pytest.raises(quickstart.QuickstartError, match="cannot be used"):
        quickstart._hydra_quoted(name)


@pytest.mark.parametrize("value", ["2024", "null", "''", "[a]", "{a: 1}", "1e3", "true"])
def test_a_run_folder_that_is_no_text_is_refused(compose, value):
    with pytest.raises(ConfigError, match="no text"):
        run_folder(compose(f"trainer.default_local_dir={value}").trainer.default_local_dir)
    assert run_folder("2024") == Path("2024")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_override_names_in_scripts_exist(script, default):
    """Every dotted name=value and every quoted dotted name that begins with a section of the configuration."""
    sections = "|".join(default)
    names = re.findall(rf"[\"'\s]((?:{sections})(?:\.\w+)+)(?==|[\"']| \"\$)", script.read_text())
    for name in names:
        known = re.fullmatch(r"ccpo\.roles\.\w+\.(\w+)", name)  # roles are added, with the same fields
        if known and known[1] in {f.name for f in dataclasses.fields(RoleConfig)}:
            continue
        if name.startswith("ccpo.team_kwargs."):  # checked against the team itself
            continue
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
    assert (config.ccpo.seed, config.data.seed, config.actor_rollout_ref.rollout.seed) == (7, 7, 7)
    assert config.data.train_batch_size == 8
    assert ccpo(config).credit.rule == "shared"
