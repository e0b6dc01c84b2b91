"""Modules and inputs that need care: right, or a clear error."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from tests.helpers.functions import close
from tests.helpers.nnx_modules import HIDDEN, MLP, WIDTH, InlinedBlock, Stack, SwiGLU, rows

X = rows(16, WIDTH)
EXACT = lcjax.Exact(max_gap=2)


def test_module_that_is_called_twice_is_no_site():
    mlp = MLP(nnx.Rngs(0))
    model = Stack([mlp, mlp])
    assert not lcjax.nnx.find_sites(model, X)
    assert "used" in str(lcjax.nnx.explain(model, X))
    with pytest.raises(lcjax.CollapseError, match="no site"):
        lcjax.nnx.add_slopes(model, X)


def test_module_with_two_names_is_replaced_under_both():
    model = Stack([MLP(nnx.Rngs(0))])
    model.last = model.layers[0]
    compact, report = lcjax.nnx.collapse(model, X, fit=EXACT)
    assert compact.last is compact.layers[0]
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(compact)))
    assert size == report.parameters_after == WIDTH * WIDTH + WIDTH


def test_graph_cycle_stays_a_cycle():
    model = Stack([SwiGLU(nnx.Rngs(0))])
    model.layers[0].parent = model
    compact, _ = lcjax.nnx.collapse(model, X, fit=EXACT)
    assert compact.layers[0].parent is compact
    assert compact(X).shape == X.shape


@pytest.mark.slow
def test_dropout_in_training_disappears_at_collapsed_sites_only():
    model = Stack([InlinedBlock(nnx.Rngs(i)) for i in range(2)])
    model.train()
    compact, _ = lcjax.nnx.collapse(model, X, sites="layers/0/*", fit=EXACT)
    counts = lambda model: [int(each.dropout.rngs.count[...]) for each in model.layers]
    before = counts(compact)
    first, second = compact(X), compact(X)
    assert np.any(first != second)
    assert counts(compact) == [n + 2 for n in before]
    compact.eval()
    close(compact(X), compact(X))


def test_dropout_after_a_collapsed_pair_stays():
    class Dropped(MLP):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.dropout(super().__call__(x))

    model = Dropped(nnx.Rngs(0))
    model.eval()
    compact, _ = lcjax.nnx.collapse(model, X, fit=EXACT)
    y = compact(X)
    compact.train()
    dropped = compact(X)
    assert 0.3 < (dropped == 0).mean() < 0.7
    close(dropped[dropped != 0], 2 * y[dropped != 0])


def test_norm_with_statistics_of_the_batch_cannot_be_folded_in():
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.up, self.norm = nnx.Linear(WIDTH, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
            self.down = nnx.Linear(4, WIDTH, rngs=rngs)

        def __call__(self, x):
            return self.down(nnx.relu(self.norm(self.up(x))))

    with pytest.raises(lcjax.CollapseError, match="statistics of the batch"):
        lcjax.nnx.collapse(Normed(nnx.Rngs(0)), X, fit=EXACT)


def test_missing_and_wrong_inputs():
    model = MLP(nnx.Rngs(0))
    with pytest.raises(TypeError, match="inputs: got 0 and none by name, expected x, .* of MLP"):
        lcjax.nnx.find_sites(model)
    with pytest.raises(TypeError, match="expected x"):
        lcjax.nnx.collapse(model, X, X)
    message = r"inputs: got float32\[2, 9\], on which MLP cannot run .TypeError: dot_general req"
    with pytest.raises(lcjax.CollapseError, match=message) as raised:
        lcjax.nnx.find_sites(model, rows(2, WIDTH + 1))
    assert isinstance(raised.value.__cause__, TypeError)
    dropped = nnx.Sequential(model, nnx.Dropout(0.5))
    with pytest.raises(lcjax.CollapseError, match=r"got float32\[16, 8\].*Give inputs of"):
        lcjax.nnx.explain(dropped, X)  # in training mode, without the rngs that it needs
    with pytest.raises(TypeError, match=r"model is .*; expected an nnx.Module"):
        lcjax.nnx.trace(lambda x: x, X)
    with pytest.raises(TypeError, match="expected an nnx.Module"):
        lcjax.nnx.trace({"kernel": X}, X)


def test_module_without_a_pair():
    model = nnx.Linear(WIDTH, 3, rngs=nnx.Rngs(0))
    assert not lcjax.nnx.find_sites(model, X)
    with pytest.raises(lcjax.CollapseError, match="site"):
        lcjax.nnx.collapse(model, X, fit=EXACT)


def test_sites_that_match_nothing_and_sites_that_are_collapsed_already():
    model = Stack([MLP(nnx.Rngs(0)), MLP(nnx.Rngs(1))])
    with pytest.raises(lcjax.CollapseError, match="nothing"):
        lcjax.nnx.collapse(model, X, sites="nothing/*", fit=EXACT)
    compact, _ = lcjax.nnx.collapse(model, X, sites="layers/0/*", fit=EXACT)
    with pytest.raises(lcjax.CollapseError, match="layers/0/up.*collapsed"):
        lcjax.nnx.collapse(compact, X, sites="layers/0/up", fit=EXACT)
    whole, _ = lcjax.nnx.collapse(compact, X, fit=EXACT)
    assert not lcjax.nnx.find_sites(whole, X)
    with pytest.raises(lcjax.CollapseError, match="site"):
        lcjax.nnx.collapse(whole, X, fit=EXACT)


class TwoMethods(nnx.Module):
    """A module of whose methods each runs a pair, and `__call__` neither."""

    def __init__(self, rngs):
        self.a, self.b = MLP(rngs), MLP(rngs)
        self.up, self.down = MLP(rngs).up, MLP(rngs).down

    def encode(self, x, *, scale):
        return self.a(x) * jnp.float32(scale)

    def own(self, x):
        return self.down(nnx.relu(self.up(x)))


def test_methods_and_functions_of_a_module():
    model = TwoMethods(nnx.Rngs(0))
    call = lcjax.nnx.trace(model.encode, X, scale=2.0)
    compact, _ = call.collapse(fit=EXACT)
    assert type(compact) is TwoMethods and compact.a.up.kernel is None
    assert compact.encode(X, scale=3.0).shape == X.shape
    close(compact.b(X), model.b(X))
    compact, _ = lcjax.nnx.collapse(model.own, X, fit=EXACT)
    assert isinstance(compact, TwoMethods)
    close(compact.own(X), (X @ model.up.kernel[...] + model.up.bias[...]) @ model.down.kernel[...])
    close(compact.encode(X, scale=1.0), model.encode(X, scale=1.0))
    compact, _ = lcjax.nnx.collapse(partial(lambda model, x: model.b(x), model), X, fit=EXACT)
    assert compact.b.up.kernel is None and compact.a.up.kernel is not None
    both, _ = lcjax.nnx.collapse(compact.own, X, fit=EXACT)  # which leaves the other one alone
    assert both.up.kernel is None
    close(both.b(X), compact.b(X))


def test_pair_outside_of_every_method():
    fn = lambda model, x: model.down(nnx.relu(model.up(x)))
    model = TwoMethods(nnx.Rngs(0))
    with pytest.raises(lcjax.CollapseError, match="up: no method of one module runs both layers"):
        lcjax.nnx.collapse(partial(fn, model), X, fit=EXACT)


def test_rngs_among_the_arguments_move_on():
    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.up, self.down = MLP(rngs).up, MLP(rngs).down
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x, *, rngs):
            return self.dropout(x, rngs=rngs) + self.down(nnx.relu(self.up(x)))

    model = Stack([Dropped(nnx.Rngs(0))])
    call = lcjax.nnx.trace(partial(lambda model, x: model.layers[0](x, rngs=nnx.Rngs(1)), model), X)
    compact, _ = call.collapse(fit=EXACT)
    rngs, twin = nnx.Rngs(5), nnx.Rngs(5)
    close(
        compact.layers[0](X, rngs=rngs) - nnx.Dropout(0.5)(X, rngs=twin),
        (X @ model.layers[0].up.kernel[...]) @ model.layers[0].down.kernel[...],
    )
    assert int(rngs.default.count[...]) == 1


def test_abstract_inputs_and_params():
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    model = nnx.eval_shape(lambda: Stack([MLP(nnx.Rngs(0))]))
    (site,) = lcjax.nnx.find_sites(model, shape)
    assert (site.d_in, site.d_hidden, site.d_out) == (WIDTH, HIDDEN, WIDTH)


class Branching(MLP):
    """Code that branches on an attribute and on the shape of its input."""

    double = False

    def __call__(self, x):
        assert x.ndim <= 2
        y = super().__call__(x)
        if x.shape[0] < 8:
            return y - x
        return 2 * y if self.double else y


def test_collapsed_code_branches_on_attributes_and_shapes():
    model = Branching(nnx.Rngs(0), dtype=jnp.float32)
    compact, _ = lcjax.nnx.collapse(model, X, fit=EXACT)
    deep = lambda x: (x @ model.up.kernel[...] + model.up.bias[...]) @ model.down.kernel[...]
    linear = lambda x: deep(x) + model.down.bias[...]
    close(compact(X), linear(X))
    close(compact(X[:4]), linear(X[:4]) - X[:4])
    compact.double = True
    close(compact(X), 2 * linear(X))
    del compact.double
    close(compact(X), linear(X))
    with pytest.raises(AssertionError):
        compact(X[None])


@pytest.mark.parametrize("fit", [lcjax.LeastSquares(), lcjax.Units(6, linear=False)])
def test_kernel_that_another_part_has_too_cannot_be_replaced(fit):
    model = Stack([MLP(nnx.Rngs(0))])
    model.head = nnx.Linear(WIDTH, HIDDEN, rngs=nnx.Rngs(1))
    model.head.kernel = model.layers[0].up.kernel
    call = lcjax.nnx.trace(model.layers[0], X)
    call.collapse_sequential([X], fit=fit)  # which has no other part
    call = lcjax.nnx.trace(model, X)
    with pytest.raises(lcjax.CollapseError, match="head/kernel: .* Param as layers/0/up/kernel"):
        call.collapse_sequential([X], fit=fit)


def test_module_without_a_site_is_explained_by_every_step():
    model = nnx.Linear(WIDTH, 3, rngs=nnx.Rngs(0))
    call = lcjax.nnx.trace(model, X)
    score = lambda model: 0.0
    for step in (
        call.collapse,
        call.add_slopes,
        partial(call.calibrate, [X]),
        partial(call.collapse_sequential, [X]),
        partial(call.sensitivity, score, [X]),
        partial(call.plan, score, [X], budget=lcjax.Count(1)),
        partial(call.plan_fits, [X], budget=lcjax.Params(0.8)),
    ):
        with pytest.raises(lcjax.CollapseError, match="the model has no site"):
            step()
    compact, _ = lcjax.nnx.collapse(MLP(nnx.Rngs(0)), X, fit=EXACT)
    with pytest.raises(lcjax.CollapseError, match="no site left: up collapsed already"):
        lcjax.nnx.collapse(compact, X)
