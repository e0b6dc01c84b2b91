"""Signals while steps are taken: the first is noted, the second stops at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from lcjax.cli import command as cli
from lcjax.cli import inspection
from train.runtime.interrupts import interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_raises(number, capsys):
    before = signal.getsignal(number)
    with interruption() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested and "interrupt again to stop at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with interruption() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


# Commands, in processes of their own.


def interrupted(command, at, number=signal.SIGINT):
    """Starts a command, sends a signal once it says something, and returns status and lines."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if at in line:
            process.send_signal(number)
            break
    rest = [line.strip() for line in process.communicate()[0].splitlines() if line.strip()]
    return process.returncode, [line for line in rest if not line.startswith("import time:")]


@pytest.mark.parametrize("name", ["image", "sentiment", "language", "distill", "evaluate"])
def test_a_command_that_is_stopped_while_it_imports_ends_in_one_line(name):
    # -X importtime says which modules are imported; numpy is long before the last of them.
    command = ["-X", "importtime", "-m", f"train.{name}", "digits-mlp"]
    assert interrupted(command, at="numpy.") == (130, ["stopped"])


def test_the_command_of_lcjax_does_so_too(tmp_path):
    (tmp_path / "lcjax").write_text("from lcjax.cli.command import main\nmain()\n")
    command = ["-X", "importtime", str(tmp_path / "lcjax"), "inspect", "nowhere"]
    assert interrupted(command, at="numpy.") == (130, ["stopped"])


def test_a_command_of_lcjax_that_is_stopped_ends_in_one_line(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection, "inspect_checkpoint", stop)
    with pytest.raises(SystemExit, match="130"):
        cli.main(["inspect", "nowhere"])
    assert capsys.readouterr().err == "\nstopped\n"


# Of Python's own code, of compiled code that looks at no signal, and of a callback in which Python
# only reports exceptions, as JAX has one in the garbage collector.
PROGRAM = """
from train.runtime.interrupts import end_in_one_line
end_in_one_line()
import jax
def wait():
    print("waiting", flush=True)
    while True: pass
def wait_in_compiled_code():
    forever = jax.jit(lambda: jax.lax.while_loop(lambda x: x < 9, jax.numpy.sin, 1.0)).lower()
    forever = forever.compile()
    print("waiting", flush=True)
    forever().block_until_ready()
class Held:
    __del__ = lambda self: wait()
{call}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("wait()", signal.SIGTERM),
        ("wait_in_compiled_code()", signal.SIGINT),
        ("wait_in_compiled_code()", signal.SIGTERM),
        ("Held()", signal.SIGINT),
    ],
)
def test_whatever_runs_the_process_ends_in_one_line(call, number):
    ended = interrupted(["-c", PROGRAM.format(call=call)], at="waiting", number=number)
    assert ended == (128 + number, ["stopped"])


STAGES = {
    "data": "train.tasks.image.task.load",
    "model": "train.tasks.image.objective.ImageClassifier.init",
    "plan": "lcjax.plan",
    "calibration": "lcjax.calibrate",
    "save": "lcjax.save",
    "picture": "train.runs.conclude.plot_run",
}
STOPPED = """
import sys
from train.runtime.interrupts import end_in_one_line
end_in_one_line()
import importlib, pkgutil
from train import image
import train.runs.conclude
def waits(*args, **kwargs):
    print("waiting", flush=True)
    while True: pass
place, _, name = {stage!r}.rpartition(".")
setattr(pkgutil.resolve_name(place), name, waits)
sys.argv = ["train.image", "digits-mlp", "--name", "a", "--runs-dir", {runs!r}, "--hidden", "8",
            "8", "--epochs", "1", "--protocol", "fit-heal", "--count", "1"]
image.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_stopped_at_any_stage_ends_in_one_line(stage, tmp_path):
    program = STOPPED.format(stage=STAGES[stage], runs=str(tmp_path))
    ended, said = interrupted(["-c", program], at="waiting")
    hint = "stopped; add --name a --resume to the same command to continue"
    assert ended == 130
    assert said[-1] == ("stopped" if stage in ("data", "model") else hint)
    assert not any("Traceback" in line or "Exception ignored" in line for line in said)
    assert (tmp_path / "a").exists() == (stage not in ("data", "model"))
