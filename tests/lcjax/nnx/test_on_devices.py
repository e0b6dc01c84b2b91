"""Modules on a mesh of eight devices, in a process of their own: Params stay sharded."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import lcjax
from tests.helpers.devices import devices
from tests.helpers.nnx_modules import HIDDEN, WIDTH, Stack, rows


class MLP(nnx.Module):
    """Two layers whose kernels are split over both axes of a mesh."""

    def __init__(self, rngs, split=True):
        names = ("data", "model") if split else (None, None)
        metadata = {"out_sharding": names}, {"out_sharding": names[::-1]}
        kind = {"rngs": rngs, "use_bias": False}
        first, second = metadata if split else ({}, {})
        self.up = nnx.Linear(WIDTH, HIDDEN, kernel_metadata=first, **kind)
        self.down = nnx.Linear(HIDDEN, WIDTH, kernel_metadata=second, **kind)

    def __call__(self, x):
        return self.down(nnx.silu(self.up(x)))


@pytest.mark.slow
def test_params_stay_sharded_on_eight_devices():
    done = subprocess.run(
        [sys.executable, "-m", "tests.lcjax.nnx.test_on_devices"],
        env=os.environ | devices(8),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fused", "narrow"]


def _main():
    x = rows(16, WIDTH)
    data = lcjax.CalibrationData([x], holdout=0.0, progress=False)
    run = nnx.jit(lambda model, x: model(x))
    exact, units = lcjax.Exact(max_gap=2), lcjax.Units(8, linear=False)
    whole = Stack([MLP(nnx.Rngs(i), split=False) for i in range(2)])
    fused, _ = lcjax.nnx.collapse(whole, x, sites="layers/0/*", fit=exact)
    narrow, _ = lcjax.nnx.collapse_sequential(whole, data, fit=units)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        split = Stack([MLP(nnx.Rngs(i)) for i in range(2)])
        compact, _ = lcjax.nnx.collapse(split, x, sites="layers/0/*", fit=exact)
        kernel = compact.layers[0].lcjax.fused["up"].kernel
        assert kernel.get_value().sharding.spec[0] == "data"
        assert kernel.get_metadata("out_sharding") == ("data", None)
        np.testing.assert_allclose(run(compact, x), run(fused, x), rtol=1e-4, atol=1e-4)
        print("fused")
        compact, _ = lcjax.nnx.collapse_sequential(split, data, fit=units)
        kernel = compact.layers[0].up.kernel
        assert type(compact.layers[0]) is MLP and kernel.shape == (WIDTH, 8)
        assert kernel.get_value().sharding.spec == jax.P("data", "model")
        assert kernel.get_metadata("out_sharding") == ("data", "model")
        np.testing.assert_allclose(run(compact, x), run(narrow, x), rtol=1e-3, atol=1e-3)
        print("narrow")


if __name__ == "__main__":
    _main()
