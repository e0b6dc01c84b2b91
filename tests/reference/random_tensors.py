"""Random weights and inputs for the comparisons with other libraries.

They come from NumPy's legacy generator, whose stream never changes, by the names and shapes of the
tensors: so the outputs that a reference once gave can be checked without it.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def stream(name: str) -> np.random.RandomState:
    """Returns a generator by name."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Returns a tensor for every name: random, of a size that keeps outputs near 1."""
    return {name: _weight(name, tuple(shape)) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = stream(name).standard_normal(shape)
    if name.endswith("running_var"):
        drawn = 0.5 + np.abs(drawn)
    elif len(shape) < 2:  # a bias, or a norm's scale around 1
        is_scale = name.endswith("weight")
        drawn = 0.3 * drawn + is_scale
    elif "emb" in name or "token" in name or name.startswith("w"):
        drawn = 0.5 * drawn
    else:
        drawn = drawn * np.sqrt(2 / np.prod(shape[1:]))
    return drawn.astype(np.float32)
