"""A run's directory: what it is called, who may have it, and that it is there whole or not."""

import errno
import json
import os

import pytest

from train.config.base import RunConfig
from train.engine.run_directory import (
    CONFIG,
    SUMMARY,
    RunError,
    choose_directory,
    create_directory,
    read_json,
    reopen_directory,
    write_json,
)
from train.runtime.disk import disk_full_message

ASKED = {
    "preset": "digits-mlp",
    "data": {"data_dir": None, "batch_size": 64},
    "run": {"name": None, "runs_dir": "runs", "seed": 0, "resume": False, "overwrite": False},
}


def asked(**changes):
    """The configuration with fields changed by section: run=dict(seed=1)."""
    return ASKED | {section: ASKED[section] | fields for section, fields in changes.items()}


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def choose(runs, config=ASKED, **fields):
    return choose_directory(RunConfig(runs_dir=runs, **fields), "digits-mlp", config)


def test_a_run_without_a_name_is_the_presets_numbered(runs):
    assert choose(runs) == runs / "digits-mlp"
    assert not runs.exists(), "choosing writes nothing"
    create_directory(runs / "digits-mlp", ASKED)
    assert choose(runs) == runs / "digits-mlp-2"
    create_directory(runs / "digits-mlp-2", ASKED)
    assert choose(runs) == runs / "digits-mlp-3"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", ".hidden", "a/"])
def test_a_name_that_is_none_is_an_error(runs, name):
    with pytest.raises(RunError, match=r"--name is '.*'; expected the name of a directory"):
        choose(runs, name=name)


def test_a_taken_name_is_an_error_that_says_what_to_do(runs):
    create_directory(runs / "a", ASKED)
    with pytest.raises(RunError, match="a exists. Choose another --name, .*--resume.*--overwrite"):
        choose(runs, name="a")
    assert choose(runs, name="b") == runs / "b"


def test_overwrite_replaces_a_run_and_nothing_else(runs):
    create_directory(runs / "a", ASKED)
    (runs / "a" / "old.txt").write_text("old")
    path = choose(runs, name="a", overwrite=True)
    create_directory(path, asked(run={"seed": 1}), overwrite=True)
    assert [each.name for each in path.iterdir()] == [CONFIG]
    assert read_json(path / CONFIG)["run"]["seed"] == 1
    assert list(runs.iterdir()) == [path], "the old run is gone and left nothing"
    (runs / "thesis").mkdir()
    with pytest.raises(RunError, match=f"thesis is not a run: it has no {CONFIG}"):
        choose(runs, name="thesis", overwrite=True)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_resume_and_overwrite_need_a_name(runs, flag):
    with pytest.raises(RunError, match=f"--{flag} needs the --name of a run"):
        choose(runs, **{flag: True})


def test_resume_and_overwrite_exclude_each_other(runs):
    with pytest.raises(RunError, match="--resume and --overwrite are both set"):
        choose(runs, name="a", resume=True, overwrite=True)


def test_resume_of_what_is_not_there_or_finished_is_an_error(runs):
    with pytest.raises(RunError, match=f"a is not a run: it has no {CONFIG}"):
        choose(runs, name="a", resume=True)
    create_directory(runs / "a", ASKED)
    assert choose(runs, name="a", resume=True) == runs / "a"
    write_json(runs / "a" / SUMMARY, {})
    with pytest.raises(RunError, match="a is finished: see its summary.txt"):
        choose(runs, name="a", resume=True)


@pytest.mark.parametrize(
    ("staged", "place"),
    [(False, ("optimizer", "epochs")), (True, ("protocol", "heal_epochs"))],
)
def test_a_finished_run_may_get_longer(runs, staged, place):
    section, name = place
    config = ASKED | {"optimizer": {"epochs": 2}, "protocol": {"heal_epochs": 2}}
    create_directory(runs / "a", config)
    write_json(runs / "a" / SUMMARY, {})
    if staged:
        (runs / "a" / "stages").mkdir()
    longer = config | {section: {name: 3}}
    path = choose(runs, longer, name="a", resume=True)
    reopen_directory(path, longer)
    assert read_json(path / CONFIG) == longer and not (path / SUMMARY).exists()
    write_json(runs / "a" / SUMMARY, {})
    other = "epochs" if staged else "heal_epochs"
    wrong = longer | {{"epochs": "optimizer", "heal_epochs": "protocol"}[other]: {other: 9}}
    for refused in (longer, wrong, config):
        flag = f"--{name.replace('_', '-')} to (more|extend)|more --{name.replace('_', '-')}"
        with pytest.raises(RunError, match=flag):
            choose(runs, refused, name="a", resume=True)


def test_resume_with_other_flags_lists_them(runs):
    create_directory(runs / "a", ASKED)
    other = asked(run={"seed": 7, "resume": True}, data={"batch_size": 32})
    with pytest.raises(RunError) as caught:
        choose(runs, other, name="a", resume=True)
    message = str(caught.value)
    assert "batch_size was 64, is 32; seed was 0, is 7." in message
    assert "resume was" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"resume": True}},
        {"run": {"name": "digits-mlp"}},  # the name that an unnamed run was given
        {"run": {"runs_dir": "/elsewhere"}},
        {"data": {"data_dir": "/data"}},
    ],
)
def test_resume_from_elsewhere_is_the_same_run(runs, change):
    create_directory(runs / "a", ASKED)
    assert choose(runs, asked(**change), name="a", resume=True) == runs / "a"


def test_a_flag_that_a_later_version_added_is_a_difference(runs):
    create_directory(runs / "a", ASKED)
    with pytest.raises(RunError, match="mixup was None, is 0.5"):
        choose(runs, asked(data={"mixup": 0.5}), name="a", resume=True)


def test_a_directory_taken_since_it_was_chosen_stays(runs):
    path = choose(runs)
    create_directory(path, ASKED)  # another process was faster
    with pytest.raises(RunError, match="digits-mlp cannot be created: .*not empty"):
        create_directory(path, asked(run={"seed": 1}))
    assert read_json(path / CONFIG) == ASKED
    assert list(runs.iterdir()) == [path]


def test_a_runs_dir_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "runs").write_text("kept")
    with pytest.raises(RunError, match="cannot be created: .* Choose another --name or --runs-dir"):
        create_directory(tmp_path / "runs" / "a", ASKED)
    assert (tmp_path / "runs").read_text() == "kept"


def test_a_directory_that_cannot_be_written_whole_does_not_appear(runs):
    with pytest.raises(TypeError):
        create_directory(runs / "a", {"no json": object()})
    assert list(runs.iterdir()) == []


def test_json_is_there_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"gap": 0.1, "name": "é"})
    assert read_json(path) == {"gap": 0.1, "name": "é"}

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_json(path, {"gap": 0.2})
    assert json.loads(path.read_text())["gap"] == 0.1


def test_a_full_disk_is_told_from_other_errors(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "metrics.jsonl"))
    told = disk_full_message(full, tmp_path)
    assert told is not None and told.startswith(f"{tmp_path}/metrics.jsonl cannot be written: No s")
    assert f"--name {tmp_path.name} --resume" in told
    assert (
        disk_full_message(ValueError("Failed to write [os_error_code='28']"), tmp_path) is not None
    )
    for other in (OSError(errno.EACCES, "denied"), ValueError("no such flag"), OSError("odd")):
        assert disk_full_message(other, tmp_path) is None
