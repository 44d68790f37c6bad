"""The commit marker: which folders count as checkpoints, and what a job may resume from."""

from __future__ import annotations

import numpy as np
import pytest

from ccpo.config import CcpoConfig, ConfigError
from ccpo.credit.history import HistoryState, normalize_by_history
from ccpo.run import checkpoint

CONFIG = CcpoConfig.from_dict({}, n=4)
_, HISTORY = normalize_by_history({"think/credit": np.array([0.1, 0.7])}, HistoryState(steps=3))


def save(root, step, keep=None, history=HISTORY):
    checkpoint.begin(root, step)
    folder = checkpoint.step_folder(root, step)
    folder.mkdir(parents=True)
    (folder / "data.pt").write_text("weights")
    (root / checkpoint.TRACKER).write_text(str(step))
    checkpoint.commit(root, step, CONFIG, 4, history)
    checkpoint.prune(root, step, keep)
    return folder


def to_resume(root, mode="auto", path=None):
    return checkpoint.to_resume({"resume_mode": mode, "resume_from_path": path, "default_local_dir": str(root)})


def test_a_checkpoint_gives_its_history_back(tmp_path):
    assert checkpoint.restore(save(tmp_path, 5), CONFIG, 4) == HISTORY


def test_finished_steps_ascend_as_numbers(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert checkpoint.finished_steps(tmp_path) == [9, 10, 100]


def test_an_unfinished_folder_is_no_checkpoint(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "global_step_10" / "actor").mkdir(parents=True)
    (tmp_path / checkpoint.TRACKER).write_text("10")
    assert checkpoint.finished_steps(tmp_path) == [5]
    assert to_resume(tmp_path) == tmp_path / "global_step_5"
    with pytest.raises(ConfigError, match="no complete ccpo checkpoint"):
        checkpoint.restore(tmp_path / "global_step_10", CONFIG, 4)


def test_without_a_checkpoint_there_is_no_tracker(tmp_path):
    (tmp_path / checkpoint.TRACKER).write_text("10")
    assert to_resume(tmp_path) is None and to_resume(tmp_path / "new") is None
    checkpoint.point_tracker_at(tmp_path, None)
    assert not (tmp_path / checkpoint.TRACKER).exists()
    checkpoint.point_tracker_at(tmp_path, save(tmp_path, 7))
    assert (tmp_path / checkpoint.TRACKER).read_text() == "7"


def test_the_modes_of_resuming_are_verls(tmp_path):
    folder = save(tmp_path, 5)
    assert to_resume(tmp_path, "disable") is None
    assert to_resume(tmp_path / "new", "resume_path", str(folder)) == folder


@pytest.mark.parametrize("name", ["global_step_4.bak", "global_step_4_old", "global_step_9_1", "old_global_step_4"])
def test_a_folder_that_was_moved_away_is_no_checkpoint(tmp_path, name):
    save(tmp_path, 4).rename(tmp_path / name)
    save(tmp_path, 2)
    assert checkpoint.finished_steps(tmp_path) == [2]


def test_an_old_checkpoint_that_cannot_be_removed_does_no_harm(tmp_path, monkeypatch, caplog):
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "begin", lambda *_: (_ for _ in ()).throw(PermissionError("stale handle")))
        checkpoint.prune(tmp_path, 2, keep=0)
        assert "stale handle" not in caplog.text, "keep=0 is verl's null"
        (folder := tmp_path / "global_step_2").mkdir()
        checkpoint.commit(tmp_path, 2, CONFIG, 4, HISTORY)
        checkpoint.prune(tmp_path, 2, keep=1)
    assert checkpoint.finished_steps(tmp_path) == [1, 2] and "stale handle" in caplog.text
    assert checkpoint.restore(folder, CONFIG, 4) == HISTORY


def test_begin_clears_what_an_earlier_job_left(tmp_path):
    folder = save(tmp_path, 5)
    checkpoint.begin(tmp_path, 5)
    assert not folder.exists()
    checkpoint.begin(tmp_path, 6)  # nothing there: nothing to do


@pytest.mark.parametrize("keep, left", [(None, [1, 2, 3]), (1, [3]), (2, [2, 3]), (5, [1, 2, 3])])
def test_the_newest_complete_ones_are_kept(tmp_path, keep, left):
    for step in (1, 2, 3):
        save(tmp_path, step, keep)
    assert checkpoint.finished_steps(tmp_path) == left
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == [f"global_step_{step}" for step in left]


def test_the_marker_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = save(tmp_path, 5)
    before = (folder / checkpoint.MARKER).read_text()
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.commit(tmp_path, 5, CONFIG, 4, HistoryState())
    assert (folder / checkpoint.MARKER).read_text() == before


@pytest.mark.parametrize(
    "node, n, named",
    [
        ({"credit": {"rule": "shared"}}, 4, "ccpo.credit.rule='counterfactual', this job has 'shared'"),
        ({"history": {"decay": 0.5}}, 4, "ccpo.history=[0.9, 0.05], this job has [0.5, 0.05]"),
        ({"credit": {"replays_per_prompt": 1}}, 4, "ccpo.credit.replays_per_prompt=2, this job has 1"),
        ({"credit": {"coefficient": 1.0}}, 4, "ccpo.credit.coefficient=None, this job has 1.0"),
        ({"team_kwargs": {"strip_leak": True}}, 4, "ccpo.team_kwargs.strip_leak=False, this job has True"),
        ({"team": "vote", "credit": {"rule": "shared"}}, 4, "ccpo.team='Dyad', this job has 'Vote'"),
    ],
)
def test_another_rule_does_not_resume(tmp_path, node, n, named):
    folder = save(tmp_path, 5)
    with pytest.raises(ConfigError) as caught:
        checkpoint.restore(folder, CcpoConfig.from_dict(node, n), n)
    assert named in str(caught.value) and "default_local_dir" in str(caught.value)


@pytest.mark.parametrize("setting", [{"tie": "fail"}, {"rounds": 2}, {"n_voters": 4}])
def test_a_vote_of_another_kind_does_not_resume(tmp_path, setting):
    node = {"team": "vote", "credit": {"rule": "leave_one_out"}}
    vote, other = (CcpoConfig.from_dict({**node, "team_kwargs": kwargs}, 4) for kwargs in ({}, setting))
    checkpoint.step_folder(tmp_path, 5).mkdir()
    checkpoint.commit(tmp_path, 5, vote, 4, HISTORY)
    assert checkpoint.restore(tmp_path / "global_step_5", vote, 4) == HISTORY
    with pytest.raises(ConfigError, match=f"ccpo.team_kwargs.{next(iter(setting))}"):
        checkpoint.restore(tmp_path / "global_step_5", other, 4)


def test_a_checkpoint_of_an_earlier_version_is_named_and_never_misread(tmp_path):
    import json

    marker = save(tmp_path, 5) / checkpoint.MARKER
    old = {**json.loads(marker.read_text()), "format": 1, "fingerprint": {"ccpo.topology": "dyad", "k_solo": 2}}
    marker.write_text(json.dumps(old))
    with pytest.raises(ConfigError, match="earlier version of ccpo.*verl.model_merger"):
        checkpoint.restore(tmp_path / "global_step_5", CONFIG, 4)


def test_settings_without_a_memory_may_change(tmp_path):
    node = {"prompts": "toy", "seed": 3, "poll_interval": 1.0, "roles": {"think": {"max_tokens": 9}}}
    assert checkpoint.restore(save(tmp_path, 5), CcpoConfig.from_dict(node, 4), 4) == HISTORY


def test_a_job_that_started_again_keeps_what_it_saves(tmp_path):
    """resume_mode=disable or resume_path: later steps of the earlier job are still there."""
    for step in (30, 40):
        save(tmp_path, step)
    save(tmp_path, 10, keep=2)
    assert 10 in checkpoint.finished_steps(tmp_path)


def test_nothing_resumes_from_what_was_rewound(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step)
    checkpoint.rewind(tmp_path, 10)
    assert to_resume(tmp_path) == tmp_path / "global_step_10"
    assert (checkpoint.step_folder(tmp_path, 30) / "data.pt").exists()
    assert checkpoint.finished_steps(save(tmp_path, 20).parent) == [10, 20]


def test_a_checkpoint_is_on_the_disk_before_its_marker(tmp_path, monkeypatch):
    synced, fsync = [], checkpoint.os.fsync
    monkeypatch.setattr(
        checkpoint.os, "fsync", lambda fd: (synced.append(checkpoint.os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    folder = save(tmp_path, 5)
    marker = f"{folder}/{checkpoint.MARKER}.tmp"
    assert synced == [f"{folder}/data.pt", str(folder), str(tmp_path), marker, str(folder)]


@pytest.mark.parametrize(
    "harm, says",
    [
        (lambda file: file.write_text("weigh"), "data.pt has 5 bytes, 7 were saved"),
        (lambda file: file.unlink(), "data.pt is missing"),
        (lambda file: file.with_name(checkpoint.MARKER).write_text("{"), "ccpo_state.json is not readable"),
    ],
    ids=["cut short", "missing", "marker"],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, harm, says):
    save(tmp_path, 5)
    harm(save(tmp_path, 10) / "data.pt")
    assert to_resume(tmp_path) == tmp_path / "global_step_5"
    assert says in caplog.text and "global_step_10 is damaged" in caplog.text
    with pytest.raises(ConfigError, match=says):
        checkpoint.restore(tmp_path / "global_step_10", CONFIG, 4)


def test_a_job_does_not_start_anew_because_every_checkpoint_is_damaged(tmp_path):
    for step in (5, 10):
        (save(tmp_path, step) / "data.pt").unlink()
    with pytest.raises(ConfigError, match="global_step_10: data.pt is missing; global_step_5: data.pt is missing"):
        to_resume(tmp_path)


def test_a_checkpoint_from_before_sizes_were_kept_is_not_damaged(tmp_path):
    import json

    marker = save(tmp_path, 5) / checkpoint.MARKER
    marker.write_text(json.dumps({k: v for k, v in json.loads(marker.read_text()).items() if k != "files"}))
    assert checkpoint.damage(tmp_path / "global_step_5") is None
    assert checkpoint.restore(tmp_path / "global_step_5", CONFIG, 4) == HISTORY
