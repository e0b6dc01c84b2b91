import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lcjax.algebra.fingerprints import fingerprint

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8]
DTYPES += [np.bool_, np.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_fingerprints_are_equal_for_numpy_and_jax(dtype):
    with jax.enable_x64(True):
        array = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
        name = fingerprint([array])
        assert name == fingerprint([jnp.asarray(array)])
        assert name == fingerprint([np.asfortranarray(array)])
        assert name == fingerprint([array.astype(array.dtype.newbyteorder("="))])


@pytest.mark.parametrize("change", ["value", "swap", "shape", "dtype", "sign"])
def test_fingerprints_differ_for_other_values(change):
    array = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    array[0, 0] = 0
    other = array.copy()
    match change:
        case "value":
            other[2, 3] = np.nextafter(other[2, 3], np.float32(9))
        case "swap":
            other[[1, 2]] = other[[2, 1]]
        case "shape":
            other = other.reshape(6, 4)
        case "dtype":
            other = other.view(np.int32)
        case "sign":
            other[0, 0] = -0.0
    assert fingerprint([array]) != fingerprint([other])


def test_fingerprints_of_abstract_arrays_are_none():
    assert fingerprint([jax.ShapeDtypeStruct((2,), np.float32)]) is None
    names = []
    jax.make_jaxpr(lambda x: names.append(fingerprint([x])) or x)(1.0)
    assert names == [None]


SCRIPT = """
import jax, numpy as np, pytest, lcjax
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from lcjax.algebra.fingerprints import fingerprint

array = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(kind, kind))
    for spec in (jax.P(), jax.P("a"), jax.P("b", "a"), jax.P(None, ("a", "b"))):
        there = jax.device_put(array, NamedSharding(mesh, spec))
        assert fingerprint([there]) == fingerprint([array])

model, x = lcjax.CollapsibleMLP((8, 4), nn.relu), np.ones((4, 3), np.float32)
params = model.init(jax.random.key(0), x)["params"]
for i in range(2):
    params[f"dense_{i}"] = jax.device_put(params[f"dense_{i}"], jax.devices()[i])
with pytest.raises(lcjax.CollapseError, match="act_0: got kernels in different places: .*:0 "):
    lcjax.collapse(params, fit=lcjax.Exact(max_gap=1))
with pytest.raises(lcjax.CollapseError, match="got variables and batches on different devices"):
    lcjax.calibrate(model.apply, {"params": params}, [x])
print("done")
"""


@pytest.mark.slow
def test_fingerprints_are_independent_of_sharding():
    mesh = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | mesh, capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stderr
