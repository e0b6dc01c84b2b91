"""A tree with every kind of leaf, and helpers to compare trees and run scripts."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

DTYPES = """bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64
complex64 complex128 float8_e4m3fn float8_e4m3b11fnuz float8_e5m2""".split()
METADATA = {"sites": ["block_0/mlp/act_0"], "accuracy": 0.97, "note": None}


def bits(tree):
    """The tree as plain dicts and lists, with shape, dtype and bytes in place of every leaf."""
    if isinstance(tree, dict | FrozenDict):
        return {key: bits(child) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return [bits(child) for child in tree]
    if tree is None:
        return None
    return tree.shape, tree.dtype.name, np.asarray(tree).tobytes()


def random_array(dtype, shape, seed=0):
    """Bits of every kind, NaNs and infinities among them."""
    dtype, draw = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "b":
        return draw.integers(0, 2, shape).astype(bool)
    raw = draw.integers(0, 256, (int(np.prod(shape)), dtype.itemsize), np.uint8)
    return raw.view(dtype).reshape(shape)


def in_jax(array):
    narrowed = jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype
    return array if narrowed else jax.device_put(array)


def example_tree():
    return {
        "params": {
            "block_2": {
                "mlp": {"dense_1": {"kernel": jnp.asarray(random_array("bfloat16", (4, 3)))}}
            },
            "block_10": {
                "kernel": jnp.asarray(random_array("float32", (40, 32))),
                "slope": jnp.float32(1),
            },
        },
        "statistics": {"mean": random_array("float64", (5,)), "count": np.arange(3)},
        "batch_stats": {},
    }


def run_python(script, *arguments, check=True, **environment):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=check)
