"""The commit marker: which folders count as checkpoints, and what a job may resume from."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from ccpo.config import CcpoConfig, ConfigError
from ccpo.credit.history import HistoryState, normalize_by_history
from ccpo.run import checkpoint
from ccpo.run.folder import METRICS, STEP_METRICS

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


def test_a_job_that_starts_anew_or_from_elsewhere_does_not_lose_the_run_that_is_there(tmp_path):
    folder = save(tmp_path / "run", 5)
    assert to_resume(tmp_path / "new", "disable") is None
    assert to_resume(tmp_path / "new", "resume_path", str(folder)) == folder
    save(tmp_path / "other", 3)
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / METRICS).write_text("{}")
    for root, holds in ((tmp_path / "other", "steps 3"), (tmp_path / "logged", "metrics.jsonl")):
        for mode, path in (("disable", None), ("resume_path", str(folder))):
            with pytest.raises(ConfigError, match=f"holds a run already.*{holds}.*would be lost.*resume_mode=auto"):
                to_resume(root, mode, path)


def ways(folder, tmp_path):
    """Every way to write a checkpoint's folder."""
    (tmp_path / "latest").symlink_to(folder)
    (tmp_path / "global_step_77").symlink_to(folder)
    (tmp_path / "link to the run").symlink_to(folder.parent)
    return {
        "slash": f"{folder}/",
        "slashes": f"{folder}//",
        "dots": f"{folder}/actor/../../{folder.name}/.",
        "relative": os.path.relpath(folder),
        "home": f"~/{folder.relative_to(tmp_path)}",
        "link": tmp_path / "latest",
        "link that is called after another step": tmp_path / "global_step_77",
        "link to the run": tmp_path / "link to the run" / folder.name,
        "omegaconf": str(folder),
    }


def test_every_way_to_name_a_checkpoint_means_its_folder(tmp_path, monkeypatch):
    """verl takes what follows the last global_step_ for the step."""
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "global_step_3 runs" / "mine"
    folder = save(root, 5)
    (folder / "actor").mkdir()
    for name, way in ways(folder, tmp_path).items():
        assert to_resume(root, "resume_path", str(way)) == folder, name
        assert to_resume(tmp_path / "new", "resume_path", str(way)) == folder, name


@pytest.mark.parametrize("name", ["best", "global_step_5.old", "global_step_", "global_step_05", "global_step_٥", "."])
def test_a_folder_of_another_name_is_not_resumed(tmp_path, name):
    save(tmp_path / "run", 5).rename(tmp_path / name) if name != "." else None
    with pytest.raises(ConfigError, match="name is not global_step_N"):
        to_resume(tmp_path / "new", "resume_path", str(tmp_path / name))
    assert checkpoint.finished_steps(tmp_path) == []


def test_a_checkpoint_under_the_name_of_another_step_is_not_resumed(tmp_path):
    folder = save(tmp_path, 5).rename(tmp_path / "global_step_50")
    with pytest.raises(ConfigError, match="holds the checkpoint of step 5.*global_step_5 again"):
        checkpoint.restore(folder, CONFIG, 4)


@pytest.mark.parametrize(
    "mode, path, says",
    [
        ("sometimes", None, "set auto, disable, resume_path"),
        ("auto", "global_step_5", "is not read with"),
        (None, None, "set auto"),
    ],
)
def test_a_way_of_resuming_that_would_do_nothing_is_refused(tmp_path, mode, path, says):
    with pytest.raises(ConfigError, match=says):
        to_resume(tmp_path, mode, path)


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    save(tmp_path, 5)

    def listdir(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint.os, "listdir", listdir)
    with pytest.raises(ConfigError, match="cannot be read .Permission denied."):
        to_resume(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="cannot be read .Not a directory."):
        to_resume(tmp_path / "file")


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
        ({"credit": {"siblings": True}}, 4, "ccpo.credit.siblings=None, this job has True"),
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
    marker = save(tmp_path, 5) / checkpoint.MARKER
    old = {**json.loads(marker.read_text()), "format": 1, "fingerprint": {"ccpo.topology": "dyad", "k_solo": 2}}
    marker.write_text(json.dumps(old))
    with pytest.raises(ConfigError, match="earlier version of ccpo.*verl.model_merger"):
        checkpoint.restore(tmp_path / "global_step_5", CONFIG, 4)


def test_a_checkpoint_from_before_a_setting_that_is_off_is_resumed(tmp_path):
    marker = save(tmp_path, 5) / checkpoint.MARKER
    state = json.loads(marker.read_text())
    for name in ("ccpo.credit.siblings", "ccpo.credit.wrong_price"):
        del state["fingerprint"][name]
    marker.write_text(json.dumps(state))
    assert checkpoint.restore(tmp_path / "global_step_5", CONFIG, 4) == HISTORY


def test_settings_without_a_memory_may_change(tmp_path):
    node = {"prompts": "toy", "seed": 3, "poll_interval": 1.0, "roles": {"think": {"max_tokens": 9}}}
    assert checkpoint.restore(save(tmp_path, 5), CcpoConfig.from_dict(node, 4), 4) == HISTORY


def test_a_job_that_started_again_keeps_what_it_saves(tmp_path):
    """resume_mode=resume_path: later steps of the earlier job are still there."""
    for step in (30, 40):
        save(tmp_path, step)
    save(tmp_path, 10, keep=2)
    assert 10 in checkpoint.finished_steps(tmp_path)


def test_a_removal_that_was_killed_leaves_no_half_checkpoint(tmp_path, monkeypatch, caplog):
    """The folder has lost its name before the first of its files goes; the next start removes the rest."""
    save(tmp_path, 1)
    for step in (2, 3):
        save(tmp_path, step)
    kill = KeyboardInterrupt("killed")

    def killed(path):
        (path / checkpoint.MARKER).exists() and (path / "data.pt").unlink()  # any order of removal
        raise kill

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.prune(tmp_path, 3, keep=2)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.begin(tmp_path, 3)
    assert checkpoint.finished_steps(tmp_path) == [2] and to_resume(tmp_path) == tmp_path / "global_step_2"
    assert len(list(tmp_path.glob("*.waste"))) == 2
    checkpoint.rewind(tmp_path, 2)
    assert [path.name for path in tmp_path.glob("global_step*")] == ["global_step_2"]


def test_what_cannot_be_removed_does_not_stop_a_save_and_is_not_saved_into(tmp_path, monkeypatch, caplog):
    (save(tmp_path, 5) / "shard_of_an_earlier_job.pt").touch()

    def rmtree(_):
        raise PermissionError("stale handle")

    monkeypatch.setattr(checkpoint.shutil, "rmtree", rmtree)
    folder = save(tmp_path, 5)
    assert "stale handle" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == [checkpoint.MARKER, "data.pt"]
    assert to_resume(tmp_path) == folder


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


def linked(tmp_path, step):
    """A checkpoint of another run, and a link to it in this one."""
    folder = save(tmp_path / "other", step)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / folder.name).symlink_to(folder)
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_behind_a_link_is_ever_changed(tmp_path):
    root = tmp_path / "run"
    for step in (1, 5, 7):
        linked(tmp_path, step)
    before = contents(tmp_path / "other")
    assert to_resume(root) == root / "global_step_7"
    assert checkpoint.restore(to_resume(root), CONFIG, 4) == HISTORY
    checkpoint.rewind(root, 5)
    assert checkpoint.finished_steps(root) == [1, 5]
    save(root, 7)
    save(root, 5, keep=1)
    assert checkpoint.finished_steps(root) == [5, 7] and not (root / "global_step_5").is_symlink()
    (root / "global_step_9").symlink_to(tmp_path / "nowhere")
    save(root, 9)
    assert contents(tmp_path / "other") == before


@pytest.mark.parametrize("what", ["a file", "an empty folder", "a folder without marker"])
def test_anything_may_lie_where_a_checkpoint_goes(tmp_path, what):
    place = tmp_path / "global_step_5"
    if what == "a file":
        place.write_text("x")
    else:
        place.mkdir()
        (place / "actor").mkdir() if "without" in what else None
    assert to_resume(tmp_path) is None
    assert checkpoint.restore(save(tmp_path, 5), CONFIG, 4) == HISTORY


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"seven", b"7\n8", b"-1", b"9" * 5000, None])
def test_the_tracker_is_written_and_never_read(tmp_path, junk):
    save(tmp_path, 7)
    tracker = tmp_path / checkpoint.TRACKER
    tracker.unlink()
    tracker.write_bytes(junk) if junk is not None else tracker.mkdir()
    folder = to_resume(tmp_path)
    assert folder == tmp_path / "global_step_7"
    checkpoint.point_tracker_at(tmp_path, folder)
    assert tracker.read_text() == "7"


JUNK = [
    *(b"", b"3", b"[]", b"null", b'"text"', b"{}", b"NaN", b"true", b"\xff\x00{", b"[" * 100_000, b"9" * 10_000),
    *(b'{"format": 2}', b'{"format": "2"}', b'{"format": [2]}', b'{"format": null}', b'{"format": true}'),
]
PARTS = {
    "global_steps": ["5", 5.0, None, True, [], {}],
    "fingerprint": [None, [], "x", 3],
    "history": [
        *(
            {"streams": {"a": {"weight": value, "first": 0.0, "second": 0.0}}, "joints": {}, "paper": {}, "steps": 0}
            for value in ("x", None, True, [], {}, ["x"], math.nan, math.inf, -math.inf, -1, 10**400)
        ),
        *(
            {"streams": {"a": {"weight": 0.5, "first": 0.0, "second": value}}, "joints": {}, "paper": {}, "steps": 0}
            for value in (math.nan, -0.1)
        ),
        *(
            {"streams": {}, "joints": {"a": {"x": value}}, "paper": {}, "steps": 0}
            for value in ("x", None, ["x"], math.nan)
        ),
        *(
            {"streams": {}, "joints": {}, "paper": {"a": [0.5, value]}, "steps": 0}
            for value in ("x", None, ["x"], math.inf, -1.0)
        ),
        *(None, [], "x", 3, {}),
        *(
            {"streams": value, "joints": {}, "paper": {}, "steps": 0}
            for value in (None, [1], {"a": 1}, {"a": {}}, {"a": {"x": 1}})
        ),
        *({"streams": {}, "joints": value, "paper": {}, "steps": 0} for value in (None, [1], {"a": 1})),
        *(
            {"streams": {}, "joints": {}, "paper": value, "steps": 0}
            for value in (None, [1], {"a": 1}, {"a": [1]}, {"a": {}})
        ),
        *(
            {"streams": {}, "joints": {}, "paper": {}, "steps": value}
            for value in (None, [1], "x", {}, math.inf, math.nan, -5, 1.5)
        ),
    ],
}


@pytest.mark.parametrize("content", JUNK, ids=range(len(JUNK)))
def test_a_marker_that_is_no_marker_is_named(tmp_path, content):
    (save(tmp_path, 5) / checkpoint.MARKER).write_bytes(content)
    with pytest.raises(ConfigError, match="ccpo_state.json|earlier version"):
        checkpoint.restore(tmp_path / "global_step_5", CONFIG, 4)


@pytest.mark.parametrize("key, value", [(key, value) for key, values in PARTS.items() for value in values], ids=str)
def test_a_marker_with_a_part_of_another_kind_is_named(tmp_path, key, value):
    marker = save(tmp_path, 5) / checkpoint.MARKER
    whole = json.loads(marker.read_text())
    for state in ({**whole, key: value}, {name: whole[name] for name in whole if name != key}):
        marker.write_text(json.dumps(state))
        with pytest.raises(ConfigError, match="global_step_5 is damaged.*ccpo_state.json"):
            checkpoint.restore(tmp_path / "global_step_5", CONFIG, 4)


@pytest.mark.parametrize("part", ["files", "sha256"])
@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", ".", "/etc/hostname", "../run.lock", "a/../../b"])
def test_a_marker_that_names_what_is_no_file_of_its_folder_is_damaged(tmp_path, part, name):
    marker = save(tmp_path, 5) / checkpoint.MARKER
    state = json.loads(marker.read_text())
    state[part][name] = 1
    marker.write_text(json.dumps(state))
    for contents in (False, True):
        with pytest.raises(ConfigError, match="is damaged: ccpo_state.json is not readable .*no file's name"):
            checkpoint.restore(tmp_path / "global_step_5", CONFIG, 4, contents)


def test_what_a_step_measured_is_kept_with_it(tmp_path):
    (folder := checkpoint.step_folder(tmp_path, 5)).mkdir()
    checkpoint.keep_metrics(tmp_path, 5, {"a": 0.5, "b": float("nan"), "c": "text"})
    assert checkpoint.kept_metrics(folder) == {"a": 0.5}
    for content in JUNK:
        (folder / STEP_METRICS).write_bytes(content)
        assert set(checkpoint.kept_metrics(folder)) <= {"format"}
    (folder / STEP_METRICS).unlink()
    assert checkpoint.kept_metrics(folder) == {}, "saved by an earlier version"


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
        (lambda file: file.with_name(checkpoint.MARKER).write_text('{"format": 2}'), "ccpo_state.json is not readable"),
        (lambda file: file.with_name(checkpoint.MARKER).write_text("[]"), "ccpo_state.json is not readable"),
        (lambda file: replaced_by_a_folder(file.with_name(checkpoint.MARKER)), "ccpo_state.json cannot be read"),
    ],
    ids=["cut short", "missing", "marker", "marker without keys", "marker of another kind", "marker is a folder"],
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
    marker = save(tmp_path, 5) / checkpoint.MARKER
    marker.write_text(
        json.dumps({k: v for k, v in json.loads(marker.read_text()).items() if k not in ("files", "sha256")})
    )
    assert checkpoint.damage(tmp_path / "global_step_5") is None
    assert checkpoint.restore(tmp_path / "global_step_5", CONFIG, 4) == HISTORY


def test_flipped_bytes_are_found_by_name(tmp_path, caplog):
    """Of the same length, so that sizes say nothing; which the first, quick look of a start still does."""
    save(tmp_path, 5)
    folder = save(tmp_path, 10)
    (folder / "data.pt").write_text("weighty")
    trainer = {"resume_mode": "auto", "resume_from_path": None, "default_local_dir": str(tmp_path)}
    assert checkpoint.damage(folder) is None and checkpoint.to_resume(trainer) == folder
    assert checkpoint.to_resume(trainer, contents=True) == tmp_path / "global_step_5"
    assert "data.pt has other bytes than were saved" in caplog.text
    assert checkpoint.restore(folder, CONFIG, 4) == HISTORY
    with pytest.raises(ConfigError, match="global_step_10 is damaged: data.pt has other bytes"):
        checkpoint.restore(folder, CONFIG, 4, contents=True)


def test_the_sums_are_those_that_sha256sum_prints(tmp_path):
    import hashlib

    content = b"weights" * 10**6  # more than one read
    checkpoint.begin(tmp_path, 5)
    (tmp_path / "global_step_5" / "actor").mkdir(parents=True)
    (tmp_path / "global_step_5" / "actor" / "model.pt").write_bytes(content)
    checkpoint.commit(tmp_path, 5, CONFIG, 4, HISTORY)
    marker = json.loads((tmp_path / "global_step_5" / checkpoint.MARKER).read_text())
    assert marker["sha256"] == {"actor/model.pt": hashlib.sha256(content).hexdigest()}
    assert checkpoint.damage(tmp_path / "global_step_5", contents=True) is None


@pytest.mark.parametrize("key", ["files", "sha256"])
@pytest.mark.parametrize("value", [5, ["data.pt"], None, "data.pt"])
def test_a_marker_whose_list_of_files_is_none_is_damaged(tmp_path, key, value):
    marker = save(tmp_path, 5) / checkpoint.MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {key: value}))
    assert "ccpo_state.json is not readable" in checkpoint.damage(marker.parent)


def test_what_is_missing_since_the_sizes_were_looked_at_is_damage(tmp_path):
    """A name in the sums alone, as of a file that goes while the others are read."""
    marker = save(tmp_path, 5) / checkpoint.MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"sha256": {"gone.pt": "0"}}))
    trainer = {"resume_mode": "auto", "resume_from_path": None, "default_local_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match="gone.pt cannot be read"):
        checkpoint.to_resume(trainer, contents=True)


def test_a_checkpoint_without_another_nodes_part_is_not_marked(tmp_path):
    folder = save(tmp_path, 5) / "actor"
    folder.mkdir()
    for name in ("model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt", "optim_world_size_2_rank_1.pt"):
        (folder / name).touch()
    (folder.parent / checkpoint.MARKER).unlink()
    with pytest.raises(OSError, match="^actor/optim_world_size_2_rank_0.pt cannot be seen from here"):
        checkpoint.commit(tmp_path, 5, CONFIG, 4, HISTORY)
    assert checkpoint.finished_steps(tmp_path) == []
    (folder / "optim_world_size_2_rank_0.pt").touch()
    checkpoint.commit(tmp_path, 5, CONFIG, 4, HISTORY)
    assert checkpoint.finished_steps(tmp_path) == [5]
