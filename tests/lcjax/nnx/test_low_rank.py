"""NNX modules whose kernels around an activation are two factors each."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import lcjax
from tests.helpers.functions import close
from tests.helpers.nnx_modules import HIDDEN, MLP, WIDTH, Stack, SwiGLU, rows

X = rows(80, WIDTH)
RANK = lcjax.LowRank(3)


def product(run):
    return run["0"]["kernel"][...] @ run["1"]["kernel"][...]


@pytest.mark.parametrize("kind", [MLP, pytest.param(SwiGLU, marks=pytest.mark.slow)])
def test_module_runs_on_factors(kind):
    small, report = lcjax.nnx.collapse_sequential(kind(nnx.Rngs(0)), [X], fit=RANK)
    assert isinstance(small, kind) and small.up.kernel is None and small.down.kernel is None
    fused = nnx.to_pure_dict(nnx.state(small))["lcjax"]["fused"]["up"]
    first, last = fused["layers"]["0"], fused["layers"]["1"]
    h = X @ product(first) + first["1"].get("bias", 0.0)
    h = nnx.relu(h) if kind is MLP else nnx.silu(X @ product(fused["gates"]["0"])) * h
    close(small(X), h @ product(last) + last["1"]["bias"])
    kernels = 2 if kind is MLP else 3
    biases = WIDTH + (HIDDEN if kind is MLP else 0)
    assert report.parameters_after == kernels * 3 * (WIDTH + HIDDEN) + biases


def test_kernels_that_factors_do_not_make_smaller_stay():
    model = MLP(nnx.Rngs(0))
    small, _ = lcjax.nnx.collapse_sequential(model, [X], fit=lcjax.LowRank(WIDTH))
    assert type(small) is MLP
    np.testing.assert_array_equal(small.up.kernel[...], model.up.kernel[...])


@pytest.mark.slow
def test_state_is_saved_and_restored_by_orbax(tmp_path):
    model = Stack([MLP(nnx.Rngs(0)), SwiGLU(nnx.Rngs(1))])
    small, _ = lcjax.nnx.collapse_sequential(model, [X], fit=RANK)
    graph, state = nnx.split(small)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "small", state)
    with ocp.StandardCheckpointer() as checkpointer:
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        restored = nnx.merge(graph, checkpointer.restore(tmp_path / "small", like))
    np.testing.assert_array_equal(restored(X), small(X))
    again, report = lcjax.nnx.collapse_sequential(small, [X], fit=lcjax.LeastSquares())
    assert report.collapsed == ("layers/0/up", "layers/1/up")
    assert np.isfinite(again(X)).all()
