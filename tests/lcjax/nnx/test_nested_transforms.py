"""Modules that run parts of theirs under nnx.jit, nnx.remat and JAX's own transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from tests.helpers.functions import close
from tests.helpers.nnx_modules import (
    MLP,
    WIDTH,
    Block,
    Decoder,
    InlinedBlock,
    Stack,
    generate,
    rows,
    tokens,
)

X = rows(16, WIDTH)
EXACT = lcjax.Exact(max_gap=2)


class JitMLP(MLP):
    """An MLP whose method is compiled."""

    __call__ = nnx.jit(MLP.__call__)


class RematMLP(MLP):
    """An MLP whose method is rematerialised."""

    __call__ = nnx.remat(MLP.__call__)


class Through(Stack):
    """Modules one after another, each run by a function."""

    run = staticmethod(lambda layer, x: layer(x))

    def __call__(self, x):
        for layer in self.layers:
            x = self.run(layer, x)
        return x


class JitCalls(Through):
    """By one compiled function, which keeps its traces."""

    run = staticmethod(nnx.jit(Through.run))


class RematCalls(Through):
    """By a rematerialised function."""

    run = staticmethod(nnx.remat(Through.run))


class Checkpoints(Through):
    """By a rematerialised function of the split module."""

    @staticmethod
    def run(layer, x):
        graph, state = nnx.split(layer)
        return jax.checkpoint(lambda state, x: nnx.merge(graph, state)(x))(state, x)


MODELS = {
    "nnx.jit method": lambda: Stack([JitMLP(nnx.Rngs(i)) for i in range(2)]),
    "nnx.remat method": lambda: Stack([RematMLP(nnx.Rngs(i)) for i in range(2)]),
    "nnx.jit": lambda: JitCalls([MLP(nnx.Rngs(i)) for i in range(2)]),
    "nnx.remat": lambda: RematCalls([MLP(nnx.Rngs(i)) for i in range(2)]),
    "jax.checkpoint": lambda: Checkpoints([MLP(nnx.Rngs(i)) for i in range(2)]),
}


def plain(model):
    """The same layers in modules without transforms."""
    same = Stack([MLP(nnx.Rngs(9)) for _ in model.layers])
    nnx.update(same, nnx.state(model))
    return same


@pytest.mark.parametrize("kind", MODELS)
def test_sites_under_transforms_are_delivered(kind):
    model = MODELS[kind]()
    assert lcjax.nnx.find_sites(model, X).paths == ("layers/0/up", "layers/1/up")
    expected, _ = lcjax.nnx.collapse(plain(model), X, sites="layers/1/*", fit=EXACT)
    for _ in range(2):  # the second finds traces of the first
        compact, _ = lcjax.nnx.collapse(model, X, sites="layers/1/*", fit=EXACT)
        layer, other = compact.layers[1], compact.layers[0]
        assert isinstance(layer, type(model.layers[1])) and layer.up.kernel is None
        assert type(other) is type(model.layers[0])
        close(compact(X), expected(X))


@pytest.mark.slow
@pytest.mark.parametrize("fit", [lcjax.Units(6), lcjax.Units(6, linear=False)])
@pytest.mark.parametrize("kind", MODELS)
def test_fits_and_slopes_under_transforms(kind, fit):
    model = MODELS[kind]()
    compact, report = lcjax.nnx.collapse_sequential(model, [X], fit=fit)
    expected, _ = lcjax.nnx.collapse_sequential(plain(model), [X], fit=fit)
    close(compact(X), expected(X))
    if not fit.linear:
        assert type(compact.layers[0]) is type(model.layers[0])
        assert compact.layers[0].up.kernel.shape == (WIDTH, 6)
    close(lcjax.nnx.add_slopes(model, X)(X), model(X))


def test_state_under_transforms_is_written():
    model = JitCalls([InlinedBlock(nnx.Rngs(0))])
    model.train()
    compact, report = lcjax.nnx.collapse(model, X, fit=EXACT)
    assert report.collapsed == ("layers/0/up",)
    first, second = compact(X), compact(X)
    assert np.any(first != second)
    assert int(compact.layers[0].dropout.rngs.count[...]) == 2


class RematBlock(Block):
    """A decoder block that is rematerialised, the usual way."""

    __call__ = nnx.remat(Block.__call__, static_argnums=(2,))


@pytest.mark.slow
def test_decoder_of_rematerialised_blocks():
    model = Decoder(nnx.Rngs(0), blocks=0)
    model.blocks = nnx.List([RematBlock(nnx.Rngs(i)) for i in range(2)])
    compact, report = lcjax.nnx.collapse(model, tokens(), sites="blocks/0/*", fit=EXACT)
    assert report.collapsed == ("blocks/0/mlp/up",)
    assert type(compact.blocks[0].mlp).__name__ == "CollapsedSwiGLU"
    ids, logits = generate(compact, tokens(2, 3), 3)
    graph, state = nnx.split(compact)
    forward = lambda state, ids: nnx.merge(graph, state)(ids)
    close(logits, jax.jit(forward)(state, ids[:, :-1])[:, 2:])
    assert str(jax.make_jaxpr(forward)(state, ids)).count("remat") == 2
    loss = nnx.grad(lambda model: jnp.square(model(ids)).mean())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loss(compact)))
