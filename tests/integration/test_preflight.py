"""Every check of `ccpo.verl_plugin.preflight`: the mistake is made, the message names it and says what to set."""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("verl")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from omegaconf import OmegaConf, open_dict  # noqa: E402

from ccpo.config import CcpoConfig, ConfigError  # noqa: E402
from ccpo.credit.history import HistoryState  # noqa: E402
from ccpo.run import checkpoint  # noqa: E402
from ccpo.run.folder import JOB, METRICS  # noqa: E402
from ccpo.verl_plugin import fit, preflight  # noqa: E402
from data_preprocess.toy import dataset_rows  # noqa: E402

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "data_preprocess" / "last_digit_model"


def write(path: Path, split: str, count: int = 16, change=None) -> Path:
    rows = dataset_rows(split, count, seed=0)
    if change:
        change(rows[1])
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def config(cpu_config, tmp_path):
    """A good configuration."""
    cpu_config.data.train_files = str(write(tmp_path / "train.parquet", "train"))
    cpu_config.data.val_files = [str(write(tmp_path / "test.parquet", "test", 4))]
    return cpu_config


def problems(config) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        preflight.check(config)
    return caught.value.problems


def problem(config) -> str:
    (found,) = problems(config)
    return found


def test_a_good_configuration_passes_and_stays_as_it_is(config):
    before = copy.deepcopy(config)
    assert preflight.check(config) == []
    assert config == before


# ---------------------------------------------------------------------------------------------------------------- data


def test_missing_files(config, tmp_path):
    config.data.train_files = str(tmp_path / "nowhere.parquet")
    config.data.val_files = [*config.data.val_files, "~/no/such.parquet"]
    train, val = problems(config)
    assert "data.train_files" in train and "nowhere.parquet does not exist" in train and "data_preprocess" in train
    assert "data.val_files" in val and str(Path("~/no/such.parquet").expanduser()) in val


@pytest.mark.parametrize("value", [5, "", [5], [None], {"a": 1}, [["a"]], "a\0b", True])
def test_what_names_no_files(config, value):
    OmegaConf.update(config, "data.train_files", value, merge=False)
    assert any(
        text.startswith("data.train_files is ") and "set it to a parquet file" in text for text in problems(config)
    )


@pytest.mark.parametrize("nothing", [None, []])
def test_no_files(config, nothing):
    config.data.val_files = nothing
    assert "data.val_files" in problem(config)


def test_unreadable_and_empty_files(config, tmp_path):
    (tmp_path / "train.parquet").write_text("no parquet")
    pq.write_table(pa.Table.from_pylist(dataset_rows("test", 1, seed=0)).slice(0, 0), tmp_path / "test.parquet")
    unreadable, empty = problems(config)
    assert "train.parquet is no readable parquet file" in unreadable and "make it anew" in unreadable
    assert "data.val_files" in empty and "has no rows" in empty


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda row: row["reward_model"].update(ground_truth=None), "no ground truth"),
        (lambda row: row["reward_model"].update(ground_truth=""), "no ground truth"),
        (lambda row: row.update(reward_model=None), "no ground truth"),
        (lambda row: row.update(prompt=[]), "no prompt: every row needs prompt=[{role: user"),
        (lambda row: row.update(prompt=[{"role": "user", "content": ""}]), "no prompt"),
        (lambda row: row["extra_info"].update(split="test"), "extra_info.split is 'test', expected 'train'"),
        (lambda row: row["extra_info"].update(index=None), "no extra_info.index"),
        (
            lambda row: row["extra_info"].update(answer_type="regex"),
            "extra_info.answer_type is 'regex': the verifier knows boxed",
        ),
        (lambda row: row.update(extra_info=None), "no extra_info.index"),
    ],
)
def test_bad_rows(config, tmp_path, change, expected):
    write(tmp_path / "train.parquet", "train", change=change)
    found = problem(config)
    assert "data.train_files" in found and "train.parquet, row 1: " + expected in found


@pytest.mark.parametrize("column, value", [("prompt", "What is 1+1?"), ("reward_model", "2"), ("extra_info", "train")])
def test_columns_of_another_format(config, tmp_path, column, value):
    rows = dataset_rows("train", 16, seed=0)
    pq.write_table(pa.Table.from_pylist([{**row, column: value} for row in rows]), tmp_path / "train.parquet")
    assert "train.parquet, row 0" in problem(config)


def test_validation_files_hold_the_test_split(config, tmp_path):
    write(tmp_path / "test.parquet", "train", 4)
    assert "extra_info.split is 'train', expected 'test'" in problem(config)


def test_fewer_rows_than_a_batch(config):
    config.data.train_batch_size = 17
    assert "16 rows are fewer than data.train_batch_size=17" in problem(config)


# --------------------------------------------------------------------------------------------------- model and budgets


def test_no_model(config):
    config.actor_rollout_ref.model.path = "/no/such/model"
    found = problem(config)
    assert (
        "actor_rollout_ref.model.path=/no/such/model: the folder /no/such/model does not exist" in found
        and "MODEL" in found
    )


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("path", "/no/such/model", "path=/no/such/model: the folder /no/such/model does not exist: set MODEL"),
        ("path", "a/b/c", "path=a/b/c: the folder a/b/c does not exist"),
        ("path", "a b/c", "path=a b/c: the folder a b/c does not exist"),
        ("path", "tests/model", "path=tests/model: the folder tests/model does not exist"),
        ("path", "~/no such", "/no such does not exist"),
        ("path", str(MODEL / "config.json"), "config.json is a file, no model's folder"),
        (
            "tokenizer_path",
            "/nope",
            "tokenizer_path=/nope: the folder /nope does not exist: set it",
        ),
        (
            "hf_config_path",
            "/nope",
            "hf_config_path=/nope: the folder /nope does not exist: set it",
        ),
    ],
)
def test_the_setting_that_names_no_model_is_named(config, name, value, says, monkeypatch):
    monkeypatch.chdir(ROOT)
    config.actor_rollout_ref.model[name] = value
    assert f"actor_rollout_ref.model.{says}" in (found := problem(config)) or says in found


QWEN = (MODEL / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    "template, says",
    [
        ("foo", "leaves out the text of system and user in the prompt of"),
        ("{% bad", "cannot render the prompt of"),
        ("{{ raise_exception('no system here') }}", "cannot render the prompt of think (no system here)"),
        (QWEN.replace("message['content']", "message['content'][:9]"), "leaves out the text of"),
        (
            QWEN.replace("for message in messages", "for message in messages if message['role'] == 'user'"),
            "leaves out the text of system",
        ),
        (QWEN.replace("for message in messages", "for message in messages[:1]"), "leaves out the text of user"),
    ],
)
def test_a_chat_template_that_does_not_say_what_a_role_is_told(config, template, says):
    config.actor_rollout_ref.model.custom_chat_template = template
    config.ccpo.roles = {"think": {"persona": "Think."}, "reason": {"persona": "Reason."}}
    found = problems(config)
    assert len(found) <= 3 and all(text.startswith("actor_rollout_ref.model.custom_chat_template") for text in found)
    assert any(says in text for text in found), found


def test_settings_of_a_chat_template_are_those_of_the_rollout(config):
    OmegaConf.update(config, "data.apply_chat_template_kwargs", {"add_generation_prompt": False}, force_add=True)
    assert all("cannot render the prompt of" in text for text in problems(config))


def test_questions_that_a_tokenizer_cannot_tell_apart(config, monkeypatch):
    """One of another language, all of whose words are unknown to it."""

    def rendered(config, tokenizer, messages, tokenize):
        return [1, 2] if tokenize else "".join(message["content"] for message in messages)

    monkeypatch.setattr(preflight, "_rendered", rendered)
    assert all("make the same tokens of" in text for text in problems(config))


def test_a_model_without_chat_template(config, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    (model / "chat_template.jinja").unlink()
    config.actor_rollout_ref.model.path = str(model)
    assert "has no chat template" in problem(config)
    config.actor_rollout_ref.model.custom_chat_template = (MODEL / "chat_template.jinja").read_text()
    assert preflight.check(config) == []
    config.actor_rollout_ref.model.custom_chat_template = None
    config.actor_rollout_ref.model.tokenizer_path = str(MODEL)
    assert preflight.check(config) == []


def test_the_prompt_budget_must_hold_the_longest_question_and_a_thought(config):
    config.data.max_prompt_length = 32
    found = problem(config)
    assert "data.max_prompt_length=32 cannot hold the longest question in the prompt of reason with 8 tokens" in found
    config.data.max_prompt_length = least = int(found.split("set at least ")[1].split(",")[0])
    assert least > 32 and preflight.check(config) == []
    config.data.max_prompt_length = least - 1
    problem(config)


def test_the_engine_must_hold_prompt_and_response(config):
    config.actor_rollout_ref.rollout.max_model_len = 95
    assert "max_model_len=95 is less than data.max_prompt_length + data.max_response_length = 96" in problem(config)
    config.actor_rollout_ref.rollout.max_model_len = 96
    assert preflight.check(config) == []


# ------------------------------------------------------------------------------------------------- verl's own settings


@pytest.mark.parametrize(
    "name, value, expected",
    [
        (
            "trainer.v1.trainer_mode",
            "sync",
            "trainer_mode is 'sync': roles and history live in ccpo's trainer; set ccpo_sync",
        ),
        (
            "algorithm.adv_estimator",
            "grpo",
            "adv_estimator is 'grpo': it would give every role the last answer's reward; set ccpo",
        ),
        ("algorithm.use_kl_in_reward", True, "set actor_rollout_ref.actor.use_kl_loss=true instead"),
        ("algorithm.filter_groups.enable", True, "filter_groups.enable is true: dropping all-equal groups would bias"),
        ("reward.reward_model.enable", True, "reward.reward_model.enable=True: verl's rewards are never asked"),
        ("actor_rollout_ref.rollout.agent.default_agent_loop", "single_turn_agent", "teams are played by ccpo_team"),
        ("algorithm.norm_adv_by_std_in_grpo", False, "set ccpo.credit.normalize=centred"),
        ("trainer.v1.sampler.custom_sampler", None, "set pkg://ccpo.verl_plugin.faults and WatchedBuffer"),
        ("trainer.v1.sampler.sync_refill_failed_groups", True, "dropped sessions are counted, never replaced"),
        ("actor_rollout_ref.actor.checkpoint.save_contents", ["model"], "without optimizer and extra"),
        ("actor_rollout_ref.actor.checkpoint.async_save", True, "marked complete while it is still being written"),
        ("trainer.remove_previous_ckpt_in_save", True, "set trainer.max_actor_ckpt_to_keep=1"),
        ("trainer.resume_mode", "resume_path", "set trainer.resume_from_path to a folder global_step_N"),
    ],
)
def test_verl_settings_that_cannot_work(config, name, value, expected):
    OmegaConf.update(config, name, value, force_add=True)
    found = problem(config)
    assert name in found and expected in found


def test_a_mini_batch_is_a_part_of_a_batch(config):
    config.actor_rollout_ref.actor.ppo_mini_batch_size = 17
    assert "ppo_mini_batch_size=17 is more than data.train_batch_size=16" in problem(config)


# ------------------------------------------------------------------------------------------------------------ hardware


def test_no_gpu(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config.trainer.device = "cuda"
    assert "no GPU is visible" in problem(config) and "profile=cpu task=last_digit" in problem(config)


def test_fewer_gpus_than_asked_for(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config.trainer.device, config.trainer.n_gpus_per_node = "cuda", 4
    config.ray_kwargs.ray_init.num_cpus, config.ray_kwargs.ray_init.num_gpus = 16, 4
    assert "trainer.n_gpus_per_node=4, but 2 GPU(s) are visible: set N_GPUS=2" in problem(config)
    config.trainer.n_gpus_per_node = 2
    assert preflight.check(config) == []


def test_no_vllm(config, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "vllm" else found(name, *more))
    config.actor_rollout_ref.rollout.name = "vllm"
    assert "vLLM is not installed: pip install -r requirements.txt" in problem(config)


# ------------------------------------------------------------------------------------------------------------ together


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("actor_rollout_ref.actor.optim.lr", "abc", "set a finite number"),
        ("actor_rollout_ref.actor.optim.lrr", 1, "did you mean actor_rollout_ref.actor.optim.lr?"),
        ("data.train_batch_size", None, "set a whole number"),
        ("data.seed", "${sed}", "cannot be read (Interpolation key 'sed' not found): what it refers to must be"),
        ("trainer", 5, "it is a section of settings"),
        ("trainer.resume_from_path", "out/global_step_3", "set trainer.resume_mode=resume_path"),
        ("trainer.resume_mode", "atuo", "trainer.resume_mode is 'atuo'"),
        ("trainer.resume_mode", None, "trainer.resume_mode is None"),
        ("actor_rollout_ref.actor.checkpoint.load_contents", ["model"], "a resumed job would begin without the rest"),
        ("actor_rollout_ref.actor.use_dynamic_bsz", False, "verl refuses it"),
    ],
)  # fmt: skip
def test_every_source_of_mistakes_is_asked(config, name, value, says):
    OmegaConf.update(config, name, value, merge=False, force_add=True)
    assert any(says in text for text in problems(config))


def test_a_model_without_configuration_or_weights(config, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    config.actor_rollout_ref.model.path = str(model)
    assert preflight.check(config) == []
    (weights,) = model.glob("*.safetensors")
    weights.unlink()
    assert "has no weights (*.safetensors, *.bin): set MODEL to a whole model's folder" in problem(config)
    (model / "config.json").unlink()
    assert f"actor_rollout_ref.model.path={model}: the folder {model} has no config.json" in problem(config)
    for file in model.iterdir():
        file.unlink()
    assert f"the folder {model} is empty" in problem(config)
    config.actor_rollout_ref.model.path = str(MODEL)
    config.ccpo.policies, config.ccpo.roles = "per_role", {"think": {"model": str(model)}}
    assert f"a role's model={model}: the folder {model} is empty" in problem(config)


@pytest.mark.parametrize("name", ["no-such-org/no-such-model", "no-such-model"])
def test_a_hub_that_cannot_be_reached_is_said_to_be(config, name, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config.actor_rollout_ref.model.path = name
    found = problem(config)
    assert f"there is no folder {name}, and the hub cannot be reached from here" in found and "Repo id" not in found


def test_a_longer_context_than_the_model_was_made_for(config, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "vllm" or found(name, *more))
    config.actor_rollout_ref.rollout.name, config.data.max_response_length = "vllm", 300
    assert "was made for 256 positions, and data.max_prompt_length + data.max_response_length = 380" in problem(config)


def test_an_output_folder_that_cannot_be_written(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("default_local_dir", "validation_data_dir"):
        for path in ("file", "file/below/it"):
            config.trainer[name] = str(tmp_path / path)
            assert f"trainer.{name}={tmp_path}/{path}: {tmp_path}/file is no folder" in problem(config)
        config.trainer[name] = str(tmp_path / "new" / "one")
    assert preflight.check(config) == [] and not (tmp_path / "new").exists()
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: False)  # root may write anywhere
    assert [f"{tmp_path} cannot be written" in text for text in problems(config)] == [True, True]


@pytest.mark.parametrize("name", ["default_local_dir", "validation_data_dir", "rollout_data_dir"])
@pytest.mark.parametrize(
    "value, says",
    [(5, "no text"), ("", "no text"), ("hdfs://a/b", "another machine's storage"), ("~nobody7/x", "no user 'nobody7'")],
)
def test_a_setting_that_means_no_folder_is_named(config, name, value, says):
    OmegaConf.update(config, f"trainer.{name}", value, force_add=True)
    assert any(text.startswith(f"trainer.{name} is ") and says in text for text in problems(config))


def test_a_home_folder_is_meant_as_a_shell_means_it(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").write_text("")
    config.trainer.default_local_dir = "~/run"
    assert f"{tmp_path}/run is no folder" in problem(config)


def test_a_log_that_is_no_file_is_named(config, tmp_path):
    config.trainer.default_local_dir = str(tmp_path / "run")
    (tmp_path / "run" / METRICS).mkdir(parents=True)
    assert any("metrics.jsonl is no file, and every step is logged there" in text for text in problems(config))


@pytest.mark.parametrize("name", preflight.SECTIONS)
@pytest.mark.parametrize("value", [None, 5, "x", []])
def test_a_section_that_is_none_is_named(config, name, value):
    OmegaConf.update(config, name, value, merge=False)
    with pytest.raises(ConfigError, match="is a section of settings; set|cannot be read"):
        preflight.readable(config)


@pytest.mark.parametrize(
    "name", ["data", "trainer.v1", "trainer.logger", "trainer.default_local_dir", "actor_rollout_ref.actor.optim"]
)
def test_a_setting_that_was_taken_out_is_named(config, name):
    """~KEY of hydra; data=[] takes a section out, too."""
    section, _, key = name.rpartition(".")
    with open_dict(config):
        del (OmegaConf.select(config, section) if section else config)[key]
    with pytest.raises(ConfigError, match=f"{re.escape(name)} is (not there|None)"):
        preflight.readable(config)


def test_what_no_part_of_the_job_reads_may_be_taken_out(config):
    with open_dict(config):
        del config.critic, config.distillation, config.global_profiler
    preflight.readable(config)


def sections(node, path: str = ""):
    """Names of all sections of a configuration."""
    for key in node:
        try:
            found = node[key]
        except Exception:  # nothing is there yet (???)
            continue
        if OmegaConf.is_dict(found):
            yield f"{path}{key}"
            yield from sections(found, f"{path}{key}.")


def looked_at(config, name: str, value: object) -> None:
    """Put ``value`` where a section is: one clear error, whatever checks read there."""
    changed = copy.deepcopy(config)
    OmegaConf.update(changed, name, value, merge=False, force_add=True)
    try:
        preflight.readable(changed)
        fit.settle(changed)
        preflight.check(changed)
    except ConfigError as error:
        assert any(name in text or "cannot be read" in text for text in error.problems), (name, error.problems)
    else:
        assert value is None or "turbo_config" in name, f"{name}={value} passes"


def test_no_value_in_place_of_a_section_is_a_traceback(config):
    names = [name for name in sections(config) if name.startswith("ccpo") or name.count(".") < 1]
    assert len(names) > 15
    for name in names:
        for value in (None, 3):
            looked_at(config, name, value)


@pytest.mark.slow
def test_no_value_in_place_of_any_section_is_a_traceback(config):
    for name in sections(config):
        for value in (None, 3, "x"):
            looked_at(config, name, value)


def test_all_mistakes_come_in_one_message(config):
    config.ccpo.credit.rule = "counterfactul"
    config.ccpo.session_timeout = -1.0
    config.algorithm.adv_estimator = "gae"
    config.data.val_files = "/no/such.parquet"
    config.actor_rollout_ref.model.path = "/no/such/model"
    with pytest.raises(ConfigError) as caught:
        preflight.check(config)
    text = str(caught.value)
    for number, part in enumerate(
        ("session_timeout", "counterfactul", "adv_estimator", "/no/such.parquet", "/no/such/model")
    ):
        assert part in text, number
    assert "5 problem(s); nothing was started" in text and "\n  5. " in text


def test_a_missing_prompt_set_is_named(config):
    config.ccpo.prompts = "???"
    assert "ccpo.prompts is '???': Dyad has the prompts math, choice, toy" in problem(config)


@pytest.mark.parametrize("rule, expected", [("paper_v1", "adds noise"), ("event_v2", "1.1 x")])
def test_published_rules_are_warned_about(config, rule, expected):
    config.ccpo.credit.rule = rule
    (note,) = preflight.check(config)
    assert note.startswith(rule) and expected in note


def test_references_are_checked_for_the_rule_that_reads_them(config, tmp_path):
    def wrong(row):
        row["extra_info"]["reference"] = "\\boxed{none}"

    config.data.train_files = str(write(tmp_path / "wrong.parquet", "train", change=wrong))
    assert preflight.check(config) == []
    config.ccpo.credit.rule = "likelihood"
    assert "wrong.parquet, row 1: extra_info.reference is" in problem(config)
    config.data.train_files = str(write(tmp_path / "right.parquet", "train"))
    assert preflight.check(config) == []
    config.data.val_files = [str(write(tmp_path / "val.parquet", "test", 4, wrong))]
    assert preflight.check(config) == [], "validation scores none"


def test_a_last_speaker_at_another_temperature_is_warned_about(config):
    config.ccpo.credit.rule = "likelihood"
    config.actor_rollout_ref.rollout.temperature = 0.7
    (note,) = preflight.check(config)
    assert "reason answers at temperature 0.7, and rule likelihood scores the reference answer at 1" in note
    config.actor_rollout_ref.rollout.update(temperature=1.0, top_p=0.9, top_k=20)
    (note,) = preflight.check(config)
    assert "reason answers at temperature 1.0, top_p=0.9, top_k=20, and rule likelihood" in note


def test_temperatures_that_differ_are_warned_about(config):
    config.ccpo.roles = {"think": {"temperature": 0.7}, "reason": {"temperature": 1.0}}
    (note,) = preflight.check(config)
    assert "ccpo.roles.think.temperature=0.7 differs from actor_rollout_ref.rollout.temperature=1.0" in note


@pytest.mark.parametrize("greedy", [{"do_sample": False}, {"do_sample": True, "temperature": 0.0}])
def test_several_greedy_sessions_of_a_question_are_warned_about(config, greedy):
    validation = config.actor_rollout_ref.rollout.val_kwargs
    validation.update({**greedy, "n": 8})
    (note,) = preflight.check(config)
    assert "validation is greedy: the 8 sessions" in note and "do_sample=true" in note
    validation.n = 1
    assert preflight.check(config) == []
    validation.update(do_sample=True, temperature=1.0, n=8)
    assert preflight.check(config) == []


def everything(folder: Path) -> dict[str, tuple]:
    """Name -> content of all that a folder holds, and of files when they were changed."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else ()
        for path in sorted(folder.rglob("*"))
    }


def test_a_refused_start_is_one_message_and_changes_nothing_on_disk(tmp_path, in_cpu_fork):
    """In a new folder, and in one that another job has trained in."""
    here, old, new = tmp_path / "here", tmp_path / "old", tmp_path / "new"
    here.mkdir()
    (old / JOB).parent.mkdir(parents=True)
    (old / JOB).write_text("ccpo: {team: chain}")
    (old / "metrics.jsonl").write_text("")
    before = everything(tmp_path)
    for out in (old, new):
        command = [
            *(ROOT / "recipe" / "main_ccpo.py", "profile=cpu", "task=last_digit"),
            *("ccpo.credit.rule=counterfactul", "ccpo.sed=1"),
            f"data.train_files={tmp_path}/none.parquet",
            f"actor_rollout_ref.model.path={MODEL}",
            f"trainer.default_local_dir={out}",
        ]
        done = in_cpu_fork(command, here, RAY_TMPDIR=str(tmp_path / "ray"))
        assert done.returncode == 1
        message = done.stderr[done.stderr.index("error: the configuration has 4 problem(s)") :]
        assert "ccpo.sed is not a setting: did you mean ccpo.seed?" in message
        assert "did you mean 'counterfactual'?" in message and "none.parquet does not exist" in message
        assert "Traceback" not in done.stderr + done.stdout and "ray init kwargs" not in done.stdout
    assert everything(tmp_path) == before


# ------------------------------------------------------------------------------------------------------------------- votes


@pytest.fixture
def vote(config):
    config.ccpo.team = "vote"
    config.ccpo.credit.rule = "leave_one_out"
    config.actor_rollout_ref.rollout.val_kwargs.do_sample = True
    config.actor_rollout_ref.rollout.val_kwargs.temperature = 1.0
    return config


def test_a_good_vote_passes(vote):
    assert preflight.check(vote) == []


def test_voters_that_validate_greedily_with_one_prompt_are_copies(vote):
    vote.actor_rollout_ref.rollout.val_kwargs.do_sample = False
    (note,) = preflight.check(vote)
    assert "they give one answer, and the plurality shows nothing" in note
    vote.ccpo.roles = {"voter_1": {"persona": "Vote boldly."}}
    assert preflight.check(vote) == []
    vote.ccpo.roles = {}
    vote.ccpo.policies = "per_role"
    assert preflight.check(vote) == []


def test_a_voters_own_temperature_is_noted(vote):
    vote.ccpo.roles = {"voter_2": {"temperature": 1.4}}
    (note,) = preflight.check(vote)
    assert "ccpo.roles.voter_2.temperature=1.4 differs from actor_rollout_ref.rollout.temperature=1.0" in note


def test_a_second_round_needs_room_for_the_others_answers(vote):
    vote.data.max_prompt_length = 22
    first = problem(vote)
    assert "cannot hold the longest question in the prompt of voter_" in first and "hears" not in first
    vote.data.max_prompt_length = 36
    assert preflight.check(vote) == []
    vote.ccpo.team_kwargs = {"rounds": 2}
    assert "with 16 tokens for what it hears" in problem(vote)


TEAM = """
from ccpo.team import Team

class Private(Team):
    roles = ("one", "two")
    columns = ("hint",)
    prompts = {"toy": {"one": {"user": "{hint}"}, "two": {"user": "{question} {said}"}}}

    async def play(self, s):
        said = await s.say("one", hint=s.row["hint"])
        return s.answer(await s.say("two", question=s.question, said=said or "nothing"))
"""


SAID = '        said = await s.say("one", hint=s.row["hint"])'


@pytest.fixture
def private(config, tmp_path):
    (tmp_path / "private.py").write_text(TEAM)
    config.ccpo.team = f"{tmp_path}/private.py:Private"
    config.ccpo.credit.rule = "removal"
    return config


def test_every_row_has_the_columns_that_the_team_reads(private, tmp_path):
    found = problems(private)
    assert len(found) == 2 and all("row 0: no column hint, which the team reads" in text for text in found)
    assert not any("reward_model" in text or "truth" in text for text in found), (
        "what no program may read is not offered"
    )
    for split, count in (("train", 16), ("test", 4)):
        rows = [{**row, "hint": "It is odd."} for row in dataset_rows(split, count, seed=0)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    assert preflight.check(private) == []


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("class Private(Team)", "class Private", "Private is no subclass of ccpo.team.Team"),
        ('roles = ("one", "two")', 'roles = ("one", "two", "three")', "declares three, which never speaks"),
        ('s.say("one", hint', 's.say("won", hint', "the program lets 'won' speak, which is no role"),
        ("return s.answer(await", "s.answer(await", "returned NoneType, which is no outcome"),
        ("{question} {said}", "{question} {reply}", "no template for two that hears {question, said}"),
        (SAID, f"        while True:\n    {SAID}", "does not end"),
        ("from ccpo.team", "import no_such_package\nfrom ccpo.team", "cannot be imported: ModuleNotFoundError"),
        ('columns = ("hint",)', "columns = ()", "reads column 'hint', which Private does not declare"),
        ('s.row["hint"]', 's.row["reward_model"]', "reads column 'reward_model'"),
    ],
)  # fmt: skip
def test_a_broken_team_is_named_before_anything_starts(private, tmp_path, old, new, says):
    assert TEAM.count(old) == 1
    (tmp_path / "private.py").write_text(TEAM.replace(old, new))
    assert any(says in text for text in problems(private)), problems(private)


def test_a_rule_that_the_team_has_no_counterfactual_for_names_those_that_fit(vote):
    vote.ccpo.credit.rule = "counterfactual"
    found = problem(vote)
    assert "rule counterfactual does not fit this team" in found and "Rules that fit: removal, leave_one_out" in found
    assert found.endswith("Teams that counterfactual fits: dyad")


@pytest.mark.parametrize("rule", ["leave_one_out", "resampled", "shapley"])
def test_a_rule_of_another_team_names_that_team(config, rule):
    config.ccpo.credit.rule = rule
    assert problem(config).endswith(f"Teams that {rule} fits: vote")


def test_a_single_agent_is_a_team(config):
    config.ccpo.team = f"{ROOT}/examples/single.py:Single"
    config.ccpo.credit.rule = "shared"
    assert preflight.check(config) == []
    config.ccpo.credit.train_replays = True
    assert "no removal of this team does: drop it" in problem(config)
    config.ccpo.credit.train_replays, config.ccpo.credit.rule = False, "own_correctness"
    assert "this team's outcome is one answer. Rules that fit: removal, resampling" in problem(config)


def test_a_checkpoint_that_does_not_fit_is_found_before_anything_starts(config, tmp_path):
    config.trainer.default_local_dir = str(tmp_path / "run")
    settings = CcpoConfig.from_dict(
        OmegaConf.to_container(config.ccpo, resolve=True), config.actor_rollout_ref.rollout.n
    )
    folder = tmp_path / "run" / "global_step_3"
    folder.mkdir(parents=True)
    checkpoint.commit(tmp_path / "run", 3, settings, config.actor_rollout_ref.rollout.n, HistoryState())
    preflight.check(config)
    (folder / checkpoint.MARKER).unlink()
    for rank in (0, 1):
        (folder / f"model_world_size_2_rank_{rank}.pt").touch()
    checkpoint.commit(tmp_path / "run", 3, settings, config.actor_rollout_ref.rollout.n, HistoryState())
    with pytest.raises(ConfigError, match="was saved by 2 training workers, and this job has 1"):
        preflight.check(config)
    for part in folder.glob("*.pt"):
        part.unlink()
    (folder / checkpoint.MARKER).unlink()
    checkpoint.commit(tmp_path / "run", 3, settings, config.actor_rollout_ref.rollout.n, HistoryState())
    config.ccpo.credit.rule = "shared"
    with pytest.raises(ConfigError, match="was trained with ccpo.credit.rule='counterfactual', this job has 'shared'"):
        preflight.check(config)
    config.trainer.resume_mode = "disable"
    with pytest.raises(ConfigError, match="holds a run already"):
        preflight.check(config)
