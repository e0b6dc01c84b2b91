"""Runs of train.image for tests: configurations by flag, the command line, what a run left."""

import dataclasses
import os
import subprocess
import sys
import warnings

from train import image
from train.presets import PRESETS
from train.run_dir import choose_directory, create_directory
from train.snapshots import Snapshots


def configured(preset="digits-mlp", **flags):
    """Returns a preset's configuration with fields set by name, whichever section they are in."""
    config = PRESETS[preset][1]
    left = set(flags)
    for section in ("data", "model", "optimizer", "penalty", "run"):
        part = getattr(config, section)
        mine = {f.name for f in dataclasses.fields(part)} & flags.keys()
        part = dataclasses.replace(part, **{name: flags[name] for name in mine})
        config = dataclasses.replace(config, **{section: part})
        left -= mine
    assert not left, f"no such flags: {left}"
    return config


def main(monkeypatch, *flags):
    """Runs the command line in this process."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which it replaces
    monkeypatch.setattr(sys, "argv", ["train.image", *map(str, flags)])
    image.main()


def start(*flags, module="train.image", **environment):
    """Starts the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, flags)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train_in(config, as_json):
    """Makes a run's directory and trains there; returns the directory and the deep variables."""
    directory = choose_directory(config.run, config.preset, as_json)
    create_directory(directory, as_json)
    return directory, image.fit(image.prepare(config), directory)


def last_state(directory, config):
    """Returns the last training state that a run saved."""
    with Snapshots(directory) as snapshots:
        return snapshots.restore(like=image.prepare(config).state)


def made_up_rows(deep=0.91, compact=0.905):
    """Returns what `train.comparison.compare` returns, with test accuracies, of a made-up model."""
    return {
        name: {
            "parameters": size,
            "mlp_parameters": size // 2,
            "flops_per_image": 2.0 * size,
            "latency_ms": {"1": 0.5, "64": 2.25},
            "test": {"accuracy": accuracy},
        }
        for name, size, accuracy in (("deep", 932_362, deep), ("compact", 407_050, compact))
    }
