"""Layers that nnx.vmap stacked: fitted one by one, and run by nnx.scan again."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import lcjax
from tests.helpers.functions import close
from tests.helpers.nnx_modules import HIDDEN, WIDTH, InlinedBlock, SwiGLU, rows

X = rows(24, WIDTH)
run = nnx.jit(lambda model, x: model(x))
make = nnx.vmap(lambda key: InlinedBlock(nnx.Rngs(key)))


class Scanned(nnx.Module):
    """Stacked blocks, run by nnx.scan."""

    def __init__(self, blocks, axis=0):
        self.blocks, self.axis = blocks, axis

    def __call__(self, x):
        axes = (nnx.Carry, self.axis)
        forward = nnx.scan(lambda x, block: block(x), in_axes=axes, out_axes=nnx.Carry)
        return forward(x, self.blocks)


class Loop(Scanned):
    """The same blocks apart."""

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture(scope="module")
def stacked():
    blocks = make(jax.random.split(jax.random.key(0), 3))
    blocks.eval()
    return blocks


def test_layers_are_the_same_modules_apart(stacked):
    layers = lcjax.nnx.unstack_layers(stacked)
    assert [layer.up.kernel.shape for layer in layers] == [(WIDTH, HIDDEN)] * 3
    again = lcjax.nnx.stack_layers(layers)
    jax.tree.map(close, nnx.state(again, nnx.Param), nnx.state(stacked, nnx.Param))
    close(run(Loop(nnx.List(layers)), X), run(Scanned(stacked), X))


@pytest.mark.slow
@pytest.mark.parametrize("fit", [lcjax.Units(6, linear=False), lcjax.Units(6), lcjax.PerUnit()])
def test_fitted_layers_are_stacked_again(stacked, fit):
    model = Scanned(stacked)
    with pytest.raises(lcjax.CollapseError, match="lcjax.nnx.unstack_layers"):
        lcjax.nnx.collapse_sequential(model, [X], fit=fit)
    loop = Loop(nnx.List(lcjax.nnx.unstack_layers(stacked)))
    compact, report = lcjax.nnx.collapse_sequential(loop, [X], fit=fit)
    assert report.parameters_after < report.parameters_before
    scanned = Scanned(lcjax.nnx.stack_layers(compact.blocks))
    close(run(scanned, X), run(compact, X))
    if fit == lcjax.Units(6, linear=False):
        assert scanned.blocks.up.kernel.shape == (3, WIDTH, 6)
        assert type(scanned.blocks) is InlinedBlock


def test_partition_names_lose_and_gain_the_axis_of_layers():
    def layer(key):
        made = nnx.Linear(2, 3, rngs=nnx.Rngs(key))
        made.kernel.set_metadata("out_sharding", ("embed", "mlp"))
        return made

    one = layer(jax.random.key(0))
    stacked = lcjax.nnx.stack_layers([one, one], axis=1)
    assert stacked.kernel.shape == (2, 2, 3)
    assert stacked.kernel.get_metadata("out_sharding") == ("embed", None, "mlp")
    single = lcjax.nnx.unstack_layers(stacked, axis=1)[1]
    assert single.kernel.get_metadata("out_sharding") == ("embed", "mlp")


def test_wrong_layers_are_explained(stacked):
    with pytest.raises(lcjax.CollapseError, match=r"shape \(3,\).*expected an axis 0 of one"):
        lcjax.nnx.unstack_layers(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match="module is a list; expected an nnx.Module"):
        lcjax.nnx.unstack_layers([stacked])
    first, second, _ = lcjax.nnx.unstack_layers(stacked)
    narrow, _ = lcjax.nnx.collapse_sequential(second, [X], fit=lcjax.Units(6, linear=False))
    with pytest.raises(lcjax.CollapseError, match="layer 1 has another form than layer 0"):
        lcjax.nnx.stack_layers([first, narrow])
    with pytest.raises(lcjax.CollapseError, match="expected modules"):
        lcjax.nnx.stack_layers([])


class ScannedAlong(Scanned):
    """Blocks stacked along axis 1 of matrices, which the scan moves to the front, as MaxText's."""

    def __call__(self, x):
        graph, state = nnx.split(self.blocks)
        move = lambda leaf: jnp.moveaxis(leaf, 1, 0) if leaf.ndim > 1 else leaf
        step = lambda x, state: (nnx.merge(graph, state)(x), None)
        return jax.lax.scan(step, x, jax.tree.map(move, state))[0]


def test_layers_along_another_axis_collapse():
    layers = [SwiGLU(nnx.Rngs(i)) for i in range(3)]
    model = ScannedAlong(lcjax.nnx.stack_layers(layers, axis=1))
    model.blocks.up.kernel.set_metadata("out_sharding", ("embed", "layers", "mlp"))
    model.blocks.down.kernel.set_metadata("out_sharding", ("mlp", "layers", "out"))
    compact, report = lcjax.nnx.collapse(model, X, fit=lcjax.Exact(max_gap=2))
    (kernel,) = jax.tree.leaves(nnx.state(compact, nnx.Param))
    assert kernel.shape == (WIDTH, 3, WIDTH) and report.collapsed == ("blocks/up",)
    fused = next(iter(compact.blocks.lcjax.fused.values()))
    assert fused.kernel.get_metadata("out_sharding") == ("embed", "layers", "out")
    folded = [lcjax.nnx.collapse(layer, X, fit=lcjax.Exact(max_gap=2))[0] for layer in layers]
    close(run(compact, X), run(Loop(nnx.List(folded)), X))
    assert not lcjax.nnx.find_sites(compact, X)


class Square(nnx.Module):
    """As many hidden units as inputs."""

    def __init__(self, rngs):
        self.up, self.down = (nnx.Linear(3, 3, use_bias=False, rngs=rngs) for _ in range(2))

    def __call__(self, x):
        return x + self.down(nnx.relu(self.up(x)))


@pytest.mark.parametrize("scanned", [Scanned, ScannedAlong])
def test_as_many_layers_as_units_keep_their_axis(scanned):
    layers, x = [Square(nnx.Rngs(i)) for i in range(3)], rows(8, 3)
    model = scanned(lcjax.nnx.stack_layers(layers, axis=1), axis=1)
    compact, _ = lcjax.nnx.collapse(model, x, fit=lcjax.Exact(max_gap=1))
    folded = [lcjax.nnx.collapse(layer, x, fit=lcjax.Exact(max_gap=1))[0] for layer in layers]
    close(run(compact, x), run(Loop(nnx.List(folded)), x))
