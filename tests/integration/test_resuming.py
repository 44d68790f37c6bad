"""Going on from a checkpoint with other settings than it was made with."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("verl")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from omegaconf import OmegaConf, open_dict  # noqa: E402

from ccpo.config import CcpoConfig, ConfigError  # noqa: E402
from ccpo.credit.history import HistoryState  # noqa: E402
from ccpo.run import checkpoint  # noqa: E402
from ccpo.run.folder import SETTINGS  # noqa: E402
from ccpo.team.load import team_class  # noqa: E402
from ccpo.verl_plugin import preflight, resuming  # noqa: E402
from data_preprocess.toy import dataset_rows  # noqa: E402

ROOT = Path(__file__).parents[2]
ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"


def write(path: Path, split: str, count: int) -> str:
    pq.write_table(pa.Table.from_pylist(dataset_rows(split, count, seed=0)), path)
    return str(path)


@pytest.fixture
def config(cpu_config, tmp_path):
    """A good configuration, in whose folder a job with the same one has saved step 3."""
    cpu_config.data.train_files = write(tmp_path / "train.parquet", "train", 16)
    cpu_config.data.val_files = write(tmp_path / "test.parquet", "test", 4)
    cpu_config.trainer.default_local_dir = str(tmp_path / "run")
    save(cpu_config)
    return cpu_config


def save(config, step: int = 3) -> Path:
    run, n = Path(config.trainer.default_local_dir), config.actor_rollout_ref.rollout.n
    (run / f"global_step_{step}").mkdir(parents=True)
    (run / SETTINGS).write_text(json.dumps(resuming.settings(config)))
    checkpoint.keep_settings(run, step)
    job = CcpoConfig.from_dict(OmegaConf.to_container(config.ccpo, resolve=True), n)
    checkpoint.commit(run, step, job, n, HistoryState())
    return run / f"global_step_{step}"


def changed(config, name: str, value: object):
    other = copy.deepcopy(config)
    with open_dict(other):
        OmegaConf.update(other, name, value, merge=False, force_add=True)
    return other


def test_equal_commands_say_nothing(config):
    assert preflight.check(config) == []


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("seed", 7, "seed was 0, is 7"),
        ("ccpo.seed", 5, "ccpo.seed was 0, is 5"),
        ("ccpo.prompts", "choice", "content of ccpo.prompts differs"),
        ("ccpo.roles.think.temperature", 0.9, "ccpo.roles.think.temperature was None, is 0.9"),
        ("ccpo.roles.think.persona", "Be bold.", "ccpo.roles.think.persona was None, is 'Be bold.'"),
        ("data.train_batch_size", 8, "data.train_batch_size was 16, is 8"),
        ("data.max_response_length", 12, "data.max_response_length was 16, is 12"),
        ("data.shuffle", False, "data.shuffle was True, is False"),
        (f"{ACTOR}.optim.lr", 1e-5, "optim.lr was 0.0003, is 1e-05"),
        (f"{ACTOR}.optim.weight_decay", 0.1, "optim.weight_decay was 0.0, is 0.1"),
        (f"{ACTOR}.loss_agg_mode", "seq-mean-token-mean", "loss_agg_mode was 'token-mean', is 'seq-mean-token-mean'"),
        (f"{ACTOR}.entropy_coeff", 0.01, "entropy_coeff was 0, is 0.01"),
        (f"{ACTOR}.use_kl_loss", True, "use_kl_loss was False, is True"),
        (f"{ROLLOUT}.temperature", 0.8, "rollout.temperature was 1.0, is 0.8"),
        (f"{ROLLOUT}.top_p", 0.9, "rollout.top_p was 1, is 0.9"),
        (f"{MODEL}.lora_rank", 8, "lora_rank was 0, is 8"),
        ("algorithm.rollout_correction.rollout_is", "token", "rollout_correction.rollout_is was None, is 'token'"),
    ],
)
def test_what_changes_the_method_is_refused_unless_asked_for(config, name, value, says):
    other = changed(config, name, value)
    folder = Path(config.trainer.default_local_dir) / "global_step_3"
    found, _ = resuming.compare(folder, other)
    assert len(found) == 1 and says in found[0] and "global_step_3 was made by another method" in found[0]
    assert found[0].count(" was ") + found[0].count(" differs") <= 3, "what follows another setting is not named"
    other.ccpo.resume_changed = True
    found, notes = resuming.compare(folder, other)
    assert found == [] and says in notes[0] and "ccpo.resume_changed allows" in notes[0]
    assert resuming.compare(save(other, 4), other) == ([], []), "from then on it is the job's method"


def test_a_job_is_refused_before_it_starts(config):
    config.actor_rollout_ref.actor.optim.lr = 1e-5
    with pytest.raises(ConfigError, match="ccpo.resume_changed=true"):
        preflight.check(config)
    config.ccpo.resume_changed = True
    (note,) = preflight.check(config)
    assert "optim.lr was 0.0003, is 1e-05" in note


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("trainer.total_training_steps", 40, "trainer.total_training_steps was 20, is 40"),
        ("trainer.save_freq", 1, "trainer.save_freq was 5, is 1"),
        ("trainer.logger", ["console", "tensorboard"], "trainer.logger was ['console'], is ['console', 'tensorboard']"),
        ("trainer.experiment_name", "other", "trainer.experiment_name was None, is 'other'"),
        (f"{ACTOR}.ppo_max_token_len_per_gpu", 8192, "ppo_max_token_len_per_gpu was 16384, is 8192"),
        (f"{ROLLOUT}.agent.num_workers", 2, "agent.num_workers was 1, is 2"),
        ("ccpo.session_timeout", 900.0, "ccpo.session_timeout was 1800.0, is 900.0"),
        ("ccpo.keep_sessions", 0, "ccpo.keep_sessions was 8, is 0"),
        ("ccpo.keep_sessions_mb", 4.0, "ccpo.keep_sessions_mb was 64.0, is 4.0"),
        ("trainer.wandb_proxy", "http://me:pass@x", "trainer.wandb_proxy differs (not shown)"),
        ("data.image_key", "photos", "data.image_key was 'images', is 'photos'"),
    ],
)
def test_the_rest_is_said(config, name, value, says):
    folder = Path(config.trainer.default_local_dir) / "global_step_3"
    problems, (note,) = resuming.compare(folder, changed(config, name, value))
    assert problems == [] and says in note and "other settings" in note and "pass@" not in note
    assert note.count(" was ") <= 3


@pytest.mark.parametrize("name", ["trainer.default_local_dir", "trainer.resume_mode"])
def test_another_way_to_the_same_checkpoint_says_nothing(config, name, tmp_path):
    folder = Path(config.trainer.default_local_dir) / "global_step_3"
    other = changed(config, "trainer.resume_mode", "resume_path")
    other.trainer.resume_from_path = str(folder)
    if name == "trainer.default_local_dir":
        other.trainer.default_local_dir = str(tmp_path / "new")
    assert preflight.check(other) == []
    other.actor_rollout_ref.actor.optim.lr = 1e-5
    with pytest.raises(ConfigError, match="optim.lr was 0.0003, is 1e-05"):
        preflight.check(other)


def test_data_are_compared_by_what_is_in_them(config, tmp_path):
    shutil.copy(config.data.train_files, tmp_path / "copy.parquet")
    config.data.train_files = [str(tmp_path / "copy.parquet")]
    assert preflight.check(config) == []
    write(tmp_path / "copy.parquet", "train", 17)
    with pytest.raises(ConfigError, match="content of data.train_files differs"):
        preflight.check(config)
    config.data.train_files = str(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", "test", 5)
    (note,) = preflight.check(config)
    assert "content of data.val_files differs" in note


def test_a_model_is_the_same_by_another_way_to_its_folder(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    config.actor_rollout_ref.model.path = "data_preprocess/../data_preprocess/last_digit_model"
    assert preflight.check(config) == []


def test_so_is_a_model_of_a_role(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    own = ROOT / "data_preprocess" / "last_digit_model"
    config.ccpo.policies = "per_role"
    config.ccpo.roles = {"think": {"model": str(own)}}
    folder = save(config, 4)
    for other in (f"{own}/", "data_preprocess/../data_preprocess/last_digit_model"):
        assert resuming.compare(folder, changed(config, "ccpo.roles.think.model", other)) == ([], [])
    (problem,), _ = resuming.compare(folder, changed(config, "ccpo.roles.think.model", "org/other"))
    assert "ccpo.roles.think.model was" in problem


REWARD = "def reward(text, truth, row):\n    return float(text.strip() == truth)\n\n\ndef other(text, truth, row):\n    return 0.0\n"
TEAM = (ROOT / "examples" / "chain.py").read_text()


def own(config, folder: Path, reward: str = REWARD, team: str = TEAM, name: str = "reward"):
    """A job with code and prompts of the user's own in ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "reward.py").write_text(reward)
    (folder / "chain.py").write_text(team)
    (folder / "mine.yaml").write_text(json.dumps(team_class(f"{folder}/chain.py:Chain").prompts))
    other = changed(config, "ccpo.reward", f"{folder}/reward.py:{name}")
    other.ccpo.team, other.ccpo.credit.rule = f"{folder}/chain.py:Chain", "shared"
    other.ccpo.prompts = f"{folder}/mine.yaml:toy"
    return other


def test_code_and_prompts_of_the_users_own_are_compared_by_what_is_in_them(config, tmp_path):
    folder = save(own(config, tmp_path / "a"), 4)
    assert resuming.compare(folder, own(config, tmp_path / "moved")) == ([], [])
    for what, change in (
        ("ccpo.reward", {"reward": REWARD.replace("== truth", "in truth")}),
        ("ccpo.reward", {"name": "other"}),
        ("ccpo.team", {"team": f"{TEAM}\n# another program\n"}),
    ):
        (problem,), _ = resuming.compare(folder, own(config, tmp_path / "a", **change))
        assert f"by another method: content of {what} differs. " in problem


def test_a_record_that_knows_no_code_says_nothing_of_it(config, tmp_path):
    folder = save(own(config, tmp_path / "a"), 4)
    then = json.loads((folder / SETTINGS).read_text())
    del then["content of ccpo.reward"], then["content of ccpo.team"]
    then["ccpo.prompts"] = "toy"  # an earlier version compared its name
    (folder / SETTINGS).write_text(json.dumps(then))
    assert resuming.compare(folder, own(config, tmp_path / "a")) == ([], [])


def test_a_longer_schedule_is_said_to_bend(config):
    config.actor_rollout_ref.actor.optim.lr_scheduler_type = "cosine"
    save(config, 4)
    config.trainer.total_training_steps = 40
    steps, curve = preflight.check(config)
    assert "total_training_steps was 20, is 40" in steps and "the learning rate follows cosine" in curve


def test_a_checkpoint_without_a_record_says_so_in_one_line(config):
    folder = Path(config.trainer.default_local_dir) / "global_step_3"
    (folder / checkpoint.MARKER).unlink()
    (folder / SETTINGS).unlink()
    job = CcpoConfig.from_dict(OmegaConf.to_container(config.ccpo, resolve=True), 4)
    checkpoint.commit(folder.parent, 3, job, 4, HistoryState())
    (note,) = preflight.check(config)
    assert "does not say what settings it was made with" in note and "\n" not in note


def test_a_setting_that_an_earlier_version_did_not_know_had_its_default(config):
    folder = Path(config.trainer.default_local_dir) / "global_step_3"
    then = json.loads((folder / SETTINGS).read_text())
    del then["ccpo.max_dropped_rate"], then["ccpo.seed"]
    (folder / SETTINGS).write_text(json.dumps(then))
    assert resuming.compare(folder, config)[1] == []
    assert "ccpo.seed was None, is 0" in resuming.compare(folder, config)[0][0]


@pytest.mark.parametrize("content", ["", "[]", "nonsense", '{"seed": '])
def test_a_damaged_record_is_none(config, content):
    folder = Path(config.trainer.default_local_dir) / "global_step_3"
    (folder / SETTINGS).write_text(content)
    assert "does not say" in resuming.compare(folder, config)[1][0]
    assert "settings.json has" in str(checkpoint.damage(folder))


def test_every_setting_of_verls_sections_is_method_or_not():
    """Patterns fit something, so that none is a misspelling."""
    from ccpo.verl_plugin.values import leaves, verls_defaults

    names = [name for name, _ in leaves(verls_defaults())]
    verls = [p for p in (*resuming.METHOD, *resuming.NOT_COMPARED) if p.split(".")[0] in verls_defaults()]
    missing = {p for p in verls if not any(resuming._fits(name, (p,)) for name in names)}
    assert missing <= {"data.apply_chat_template_kwargs*", "trainer.rollout_data_dir", "trainer.validation_data_dir"} | {
        f"{MODEL}.target_parameters", f"{ROLLOUT}.repetition_penalty", "data.sampler.*", f"{ROLLOUT}.do_sample"
    }  # fmt: skip
