"""A call that is killed goes on after the last whole layer, and writes the same bytes."""

import signal
import subprocess
import sys

import pytest

import lcjax
from lcjax.folder import FolderOptions, collapse_model
from lcjax.folder.fitting.layer_run import LayerRun
from lcjax.folder.storage.work_directory import WorkDirectory
from tests.lcjax.folder.conftest import BUDGET
from tests.lcjax.folder.folders import LLAMA, texts, write_folder

OPTIONS = FolderOptions(multiple_of=8)


def _contents(folder):
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _unfinished(target):
    return target.with_name(f".{target.name}.lcjax-unfinished")


@pytest.mark.slow
@pytest.mark.parametrize(
    "forms, steps",
    [
        ("units", ["created", "layer_0", "layer_2", "loss", "copied"]),
        ("mixed", ["plan_1", "layer_1", "copied"]),
    ],
)
def test_killed_processes_write_the_same_bytes(forms, steps, request, tmp_path):
    kind, whole = ("llama", "uniform") if forms == "units" else ("bert", "mixed")
    source, (expected, _) = (request.getfixturevalue(name) for name in (kind, whole))
    target = tmp_path / expected.name
    for step in (*steps, "never"):
        assert not target.exists()
        command = [sys.executable, "-m", "tests.lcjax.folder.killed", source, target, forms, step]
        done = subprocess.run(command, capture_output=True, text=True)
        code = 0 if step == "never" else -signal.SIGKILL
        assert done.returncode == code, done.stderr[-2000:]
        assert _unfinished(target).exists() == bool(code)
    assert _contents(target) == _contents(expected)


@pytest.mark.slow
def test_whole_layers_are_not_run_again(llama, uniform, tmp_path, monkeypatch):
    target, ran = tmp_path / uniform[0].name, []
    run, record = LayerRun.run, WorkDirectory.mark_done

    def counted(self, layer, *args, **options):
        ran.append(layer)
        return run(self, layer, *args, **options)

    def interrupted(self, step, result):
        if step == "layer_1" and ran.count(1) == 1:
            raise KeyboardInterrupt
        record(self, step, result)

    monkeypatch.setattr(LayerRun, "run", counted)
    monkeypatch.setattr(WorkDirectory, "mark_done", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collapse_model(llama, target, texts(), budget=BUDGET, options=OPTIONS)
    report = collapse_model(llama, target, texts(), budget=BUDGET, options=OPTIONS)
    assert ran == [0, 1, 1, 2]
    assert report == uniform[1]
    assert _contents(target) == _contents(uniform[0])


def test_unfinished_directory_of_another_job_is_refused(llama, tmp_path, monkeypatch):
    target = tmp_path / "compact"

    def interrupted(self, step, result):
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkDirectory, "mark_done", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collapse_model(llama, target, texts(), budget=BUDGET, options=OPTIONS)
    with pytest.raises(FileExistsError, match=r"unfinished run with other budget, plan; expected"):
        collapse_model(llama, target, texts(), budget=lcjax.Params(0.6), options=OPTIONS)
    assert _unfinished(target).exists()


def test_error_in_a_layer_leaves_nothing(tmp_path, monkeypatch):
    source, target = write_folder(tmp_path / "deep", LLAMA), tmp_path / "compact"

    def failing(self, *args, **options):
        raise ValueError("not finite")

    monkeypatch.setattr(LayerRun, "run", failing)
    with pytest.raises(ValueError, match="not finite"):
        collapse_model(source, target, texts(), budget=BUDGET, options=OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
