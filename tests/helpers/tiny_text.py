"""A small learnable text, and configurations of train.language for it."""

import numpy as np

from tests.helpers.runs import configured
from train.tasks.language.presets import PRESETS

WORDS = "the king and his fool walk in rain to see a play of love".split()
SMALL = {
    "depth": 2,
    "width": 16,
    "num_heads": 2,
    "mlp_hidden": 32,
    "context": 12,
    "batch_size": 16,
    "epochs": 1,
    "learning_rate": 1e-2,
    "dropout": 0.0,
    "validation": 0.1,
    "test": 0.1,
    "steps_per_dispatch": 5,
}
# Of a model folder, whose size is its own.
SHORT = {"context": 8, "batch_size": 8, "validation": 0.1, "test": 0.1}
PLAIN = {"protocol": "penalty", "slope_learning_rate": 0.0, "strength": 0.0}


def write_text(path, words=500, seed=0):
    """Writes random words, ten to a line, and returns the path."""
    chosen = np.random.default_rng(seed).choice(WORDS, words).tolist()
    lines = [" ".join(chosen[i : i + 10]) for i in range(0, words, 10)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def on_text(path, preset="shakespeare-small", **fields):
    """Returns a preset's configuration with a small model and the file as its data set."""
    given = SMALL | {"dataset": str(path)} | fields
    if given.get("protocol", "fit-heal") in ("fit-heal", "progressive", "anneal"):
        given.setdefault("calibration_images", 64)
    return configured(preset, PRESETS, **given)
