"""Trees run with a batch size that is a symbol, as `lcjax.export` traces them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.transform.ir.interpreter import run_program
from lcjax.transform.ir.opening import open_program
from lcjax.transform.ir.rewrites import Rewrites
from tests.helpers.functions import CASES

# Statistics are not taken inside scans, nor of dropout.
FITTED = [
    pytest.param(name, marks=() if name == "bias before" else pytest.mark.slow)
    for name in CASES
    if not any(word in name for word in ("scan", "dropout", "every"))
]


def out_shape(case, tree):
    """The shape of the output, for a symbol and for the batch size of the case."""
    (batch,) = jax.export.symbolic_shape("batch")
    x, *others = case.inputs
    like = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    f, want = lcjax.collapsible(case.fn), jax.eval_shape(case.fn, case.params, like, *others)
    return jax.eval_shape(f, tree, like, *others), want


@pytest.mark.promotes
@pytest.mark.parametrize("name", CASES)
def test_slopes_and_fused_layers_take_any_batch(name):
    case = CASES[name]
    f = lcjax.collapsible(case.fn)
    slopes = jax.eval_shape(f.init, case.params, *case.inputs)
    fused, _ = f.trace(slopes, *case.inputs).abstract_collapse("*")
    for tree in (slopes, fused):
        got, want = out_shape(case, tree)
        assert got == want


@pytest.mark.parametrize("name", FITTED)
def test_sites_with_fewer_units_take_any_batch(name):
    case = CASES[name]
    call = lcjax.collapsible(case.fn).trace(case.params, *case.inputs)
    compact, _ = call.collapse_sequential([case.inputs], fit=lcjax.Units(3))
    got, want = out_shape(case, compact)
    assert got == want


X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 6)), jnp.float32)
PLACES = {
    "first units": (lambda x: x[..., :4], ["slice"]),
    "last units": (lambda x: x[..., -4:], ["slice"]),
    "one of two": (lambda x: x[:, 1], ["slice", "squeeze"]),
    "two axes": (lambda x: x[:, 1:3, 2:5], ["slice"]),
    "one unit of one": (lambda x: x[:, 4, 5], ["slice", "squeeze"]),
    "every second": (lambda x: x[..., ::2], ["gather"]),
    "moved inside": (lambda x: x.at[:, 7].get(mode="clip"), ["gather"]),
    "filled outside": (lambda x: x.at[:, 7].get(mode="fill", fill_value=1), ["gather"]),
}


@pytest.mark.parametrize("name", PLACES)
def test_indexing_of_an_array_with_a_symbol_is_opened_as_a_slice(name):
    fn, want = PLACES[name]
    (batch,) = jax.export.symbolic_shape("batch")
    like = jax.ShapeDtypeStruct((batch, *X.shape[1:]), X.dtype)
    program = open_program(jax.make_jaxpr(fn)(like), 0)
    names = [op.name for op in program.ops()]
    assert [name for name in names if name in ("slice", "squeeze", "gather")] == want

    def run(x):
        (out,) = run_program(program, Rewrites(), {program.inputs[0]: x})
        return out

    np.testing.assert_array_equal(jax.export.export(jax.jit(run))(like).call(X), fn(X))
