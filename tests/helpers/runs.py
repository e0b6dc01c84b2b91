"""Training runs for tests: configurations, processes, saved states and metrics."""

import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tensorboardX.proto.event_pb2 import Event

from train import image
from train.config.protocol import convert_protocol
from train.engine.checkpoints import Snapshots
from train.engine.run_directory import create_directory
from train.evaluate import evaluate
from train.protocols import PROTOCOLS
from train.runs import command, conclude
from train.tasks.image.presets import PRESETS

_SECTIONS = (
    "data",
    "model",
    "optimizer",
    "penalty",
    "protocol",
    "init",
    "distillation",
    "run",
    "devices",
)


def configured(preset="digits-mlp", presets=PRESETS, **flags):
    """Returns a preset's configuration with fields of any section set by name."""
    config = presets[preset][1]
    if "protocol" in flags:
        protocol = convert_protocol(config.protocol, flags["protocol"])
        config = dataclasses.replace(config, protocol=protocol)
    left = set(flags)
    for section in _SECTIONS:
        part = getattr(config, section)
        mine = {f.name for f in dataclasses.fields(part)} & flags.keys()
        part = dataclasses.replace(part, **{name: flags[name] for name in mine})
        config = dataclasses.replace(config, **{section: part})
        left -= mine
    assert not left, f"no such flags: {left}"
    return config


def command_line(config, presets=PRESETS):
    """Returns the preset and the flags that give a configuration."""
    default, found = presets[config.preset][1], [config.preset]
    if config.protocol.protocol != default.protocol.protocol:
        found += ["--protocol", config.protocol.protocol]
        protocol = convert_protocol(default.protocol, config.protocol.protocol)
        default = dataclasses.replace(default, protocol=protocol)
    for section in _SECTIONS:
        for name, value in vars(getattr(config, section)).items():
            if value == getattr(getattr(default, section), name) or name == "kind":
                continue
            flag = "from" if name == "deep" else name.replace("_", "-")
            if isinstance(value, bool):
                found.append(f"--{'' if value else 'no-'}{flag}")
            else:
                found += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    return found


def prepare(config):
    """Returns the job of a configuration."""
    return command.prepare(config, PROTOCOLS)


def main(monkeypatch, *flags, module=image):
    """Runs a command in this process."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which it replaces
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, flags)])
    module.main()


def evaluate_here(monkeypatch):
    """Lets runs evaluate their compact model in this process, from the checkpoint all the same."""

    def evaluate_checkpoint(checkpoint, *flags):
        scores = tyro.cli(evaluate, args=[str(checkpoint), *flags])
        return json.loads(json.dumps(scores))

    monkeypatch.setattr(conclude, "evaluate_in_new_process", evaluate_checkpoint)


def start(*flags, module="train.image", **environment):
    """Starts the command line in a new process."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, flags)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process, seconds=120):
    """Waits until a condition holds; fails if the process ends or the time is up first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the process ended first: {process.communicate()}")


def checkpoints(directory):
    """Returns the steps of a run's complete checkpoints."""
    found = (path.parent.name for path in directory.glob("checkpoints/*/commit_success.txt"))
    return sorted(int(name) for name in found if name.isdecimal())  # others are being saved


def kill_and_resume(*flags, directory, saves=2, module="train.image"):
    """Starts a run, kills it after some saves, and resumes it to the end."""
    killed, seen = start(*flags, module=module), set()
    wait_for(lambda: len(seen.update(checkpoints(directory)) or seen) >= saves, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (directory / "summary.json").exists()
    resumed = start(*flags, "--resume", module=module)
    _, complained = resumed.communicate()
    assert resumed.returncode == 0, complained


def fit(directory, job):
    """Trains or resumes in a directory and returns the last state; the job is not changed."""
    if not directory.exists():
        create_directory(directory, {})
    command.train_job(dataclasses.replace(job, state=jax.tree.map(jnp.copy, job.state)), directory)
    return last_state(directory, job)


def interrupt_after(monkeypatch, saves):
    """Interrupts a run, as Ctrl-C does, right after it has started its save number `saves`."""
    save, left = Snapshots.save, [saves]

    def interrupted(self, step, state, **score):
        save(self, step, state, **score)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Snapshots, "save", interrupted)


def last_state(directory, job):
    """Returns the last saved training state of a run."""
    with Snapshots(directory) as snapshots:
        return snapshots.restore(like=job.state)


def same_bits(ours, theirs):
    """Asserts that two trees are equal bit for bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.dtype, np.asarray(a).tobytes()) == (b.dtype, np.asarray(b).tobytes())


def events(directory):
    """Returns (step, name, value) of every scalar in the TensorBoard events, in order."""
    found = []
    for file in sorted((directory / "tensorboard").iterdir()):
        raw, at = file.read_bytes(), 0
        while at < len(raw):  # length in 8 bytes, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", raw, at)
            event = Event.FromString(raw[at + 12 : at + 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return found


def made_up_rows(deep=0.91, compact=0.905):
    """Returns an invented result of `train.runs.comparison.compare` with test accuracies."""
    return {
        name: {
            "parameters": size,
            "mlp_parameters": size // 2,
            "flops_per_image": 2.0 * size,
            "latency_ms": {"1": 0.5, "64": 2.25},
            "validation": {"accuracy": accuracy},
            "test": {"accuracy": accuracy},
        }
        for name, size, accuracy in (("deep", 932_362, deep), ("compact", 407_050, compact))
    }
