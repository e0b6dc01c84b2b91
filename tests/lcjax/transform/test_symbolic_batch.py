"""Trees run with a batch size that is a symbol, as `lcjax.export` traces them."""

import jax
import pytest

import lcjax
from tests.helpers.functions import CASES

# JAX writes the slices of arrays with a symbol in their shape as gathers, which are no site.
KNOWN = {name: case for name, case in CASES.items() if not name.endswith("sliced")}
# Statistics are not taken inside scans, nor of dropout.
FITTED = [
    pytest.param(name, marks=() if name == "bias before" else pytest.mark.slow)
    for name in KNOWN
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
@pytest.mark.parametrize("name", KNOWN)
def test_slopes_and_fused_layers_take_any_batch(name):
    case = KNOWN[name]
    f = lcjax.collapsible(case.fn)
    slopes = jax.eval_shape(f.init, case.params, *case.inputs)
    fused, _ = f.trace(slopes, *case.inputs).abstract_collapse("*")
    for tree in (slopes, fused):
        got, want = out_shape(case, tree)
        assert got == want


@pytest.mark.parametrize("name", FITTED)
def test_sites_with_fewer_units_take_any_batch(name):
    case = KNOWN[name]
    call = lcjax.collapsible(case.fn).trace(case.params, *case.inputs)
    compact, _ = call.collapse_sequential([case.inputs], fit=lcjax.Units(3))
    got, want = out_shape(case, compact)
    assert got == want
