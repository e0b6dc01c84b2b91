"""Slopes in NNX modules: where they are, how they train, and what they collapse to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lcjax
from tests.helpers.functions import close
from tests.helpers.nnx_modules import MLP, WIDTH, InlinedBlock, Stack, SwiGLU, rows

X = rows(16, WIDTH)
run = nnx.jit(lambda model, x: model(x))


def sloped(kind=SwiGLU, value=None):
    model = Stack([kind(nnx.Rngs(i)) for i in range(2)])
    model.eval()
    model = lcjax.nnx.add_slopes(model, X)
    if value is not None:
        state = nnx.state(model, lcjax.nnx.Slope)
        nnx.update(model, jax.tree.map(lambda slope: jnp.full_like(slope, value), state))
    return model


@pytest.mark.parametrize("kind", [SwiGLU, InlinedBlock])
def test_slope_0_is_the_module_bit_for_bit_and_1_collapses_exactly(kind):
    model = Stack([kind(nnx.Rngs(i)) for i in range(2)])
    model.eval()
    np.testing.assert_array_equal(run(sloped(kind), X), run(model, X))
    linear = sloped(kind, 1.0)
    compact, report = lcjax.nnx.collapse(linear, X)
    assert report.collapsed == ("layers/0/up", "layers/1/up")
    close(run(compact, X), run(linear, X))
    assert not jax.tree.leaves(nnx.state(compact, lcjax.nnx.Slope))


def test_slopes_have_the_names_of_their_sites():
    model = sloped()
    state = nnx.state(model, nnx.Param)
    assert tuple(lcjax.slopes(state)) == lcjax.nnx.find_sites(model, X).paths
    assert all(site.slope == 0 for site in lcjax.nnx.find_sites(model, X))
    assert lcjax.select_sites(state, sites="layers/1/*") == ["layers/1/up"]
    assert lcjax.select_sites(nnx.as_pure(state), last=1) == ["layers/1/up"]
    root = lcjax.nnx.add_slopes(SwiGLU(nnx.Rngs(0)), X)
    assert tuple(lcjax.slopes(nnx.state(root))) == ("up",)
    one = lcjax.nnx.add_slopes(Stack([MLP(nnx.Rngs(0)), MLP(nnx.Rngs(1))]), X, sites="layers/0/*")
    assert tuple(lcjax.slopes(nnx.state(one))) == ("layers/0/up",)
    both = lcjax.nnx.add_slopes(one, X)
    assert tuple(lcjax.slopes(nnx.state(both))) == ("layers/0/up", "layers/1/up")


@pytest.mark.slow
@pytest.mark.promotes
def test_optimizer_moves_selected_slopes_to_1_and_the_module_collapses():
    model = sloped(MLP)
    tx = lcjax.with_linearity_penalty(
        optax.adamw(1e-2), strength=1.0, slope_learning_rate=0.5, sites="layers/0/*"
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: ((model(X) - X) ** 2).mean())(model)
        optimizer.update(model, grads)
        return loss

    losses = [step(model, optimizer) for _ in range(12)]
    slopes = lcjax.slopes(nnx.state(model))
    assert losses[-1] < losses[0]
    assert (slopes["layers/0/up"], slopes["layers/1/up"]) == (1, 0)
    compact, report = lcjax.nnx.collapse(model, X)
    assert report.collapsed == ("layers/0/up",)
    close(run(compact, X), run(model, X))
    assert tuple(lcjax.slopes(nnx.state(compact))) == ("layers/1/up",)
    retrained = nnx.Optimizer(compact, optax.sgd(1e-2), wrt=nnx.Param)
    first = step(compact, retrained)
    assert step(compact, retrained) < first


@nnx.vmap(in_axes=(0,), out_axes=0)
def stacked(key):
    return SwiGLU(nnx.Rngs(key))


class ScannedStack(nnx.Module):
    """Blocks whose Params are stacked, run by nnx.scan."""

    def __init__(self, layers=3):
        self.blocks = stacked(jax.random.split(jax.random.key(0), layers))

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, block):
            return x + block(x)

        return forward(x, self.blocks)


def test_layers_of_a_scan_have_a_vector_of_slopes_and_collapse_together():
    model = ScannedStack()
    with_slopes = lcjax.nnx.add_slopes(model, X)
    (slope,) = lcjax.slopes(nnx.state(with_slopes)).values()
    assert slope.shape == (3,)
    np.testing.assert_array_equal(run(with_slopes, X), run(model, X))
    nnx.update(with_slopes, jax.tree.map(jnp.ones_like, nnx.state(with_slopes, lcjax.nnx.Slope)))
    compact, _ = lcjax.nnx.collapse(with_slopes, X)
    (kernel,) = jax.tree.leaves(nnx.state(compact, nnx.Param))
    assert kernel.shape == (3, WIDTH, WIDTH)
    close(run(compact, X), run(with_slopes, X))
    assert not lcjax.nnx.find_sites(compact, X)
