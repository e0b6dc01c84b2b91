import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcjax.algebra.fuse import Norm, cheapest_cuts, fuse_dense
from lcjax.algebra.sharding import fused_spec
from tests.helpers.tolerance import assert_close

pytestmark = pytest.mark.usefixtures("strict_promotion")

widths = st.lists(st.integers(1, 40), min_size=2, max_size=7)


def cost(widths, cuts):
    return sum(widths[i] * widths[j] for i, j in zip(cuts, cuts[1:], strict=False))


@given(widths)
def test_cheapest_cuts_equal_brute_force(widths):
    inner = range(1, len(widths) - 1)
    every = [
        [0, *(i for bit, i in enumerate(inner) if chosen >> bit & 1), len(widths) - 1]
        for chosen in range(2 ** len(inner))
    ]
    assert cost(widths, cheapest_cuts(widths)) == min(cost(widths, cuts) for cuts in every)


def test_cheapest_cuts_of_published_shapes():
    assert cheapest_cuts([784, 512, 16, 512, 784]) == [0, 2, 4]
    assert cheapest_cuts([25088, 4096, 4096, 1000]) == [0, 3]


def test_cheapest_cuts_fuse_on_ties():
    assert cheapest_cuts([4, 2, 4]) == [0, 2]


def dense(rng, d_in, d_out, bias, dtype=np.float32):
    arrays = {"kernel": rng.normal(size=(d_in, d_out)).astype(dtype)}
    return arrays | ({"bias": rng.normal(size=d_out).astype(dtype)} if bias else {})


def run(dense, x):
    return x @ np.float64(dense["kernel"]) + np.float64(dense.get("bias", 0))


@settings(max_examples=30, deadline=None)
@given(widths, st.lists(st.booleans(), min_size=6, max_size=6), st.booleans(), st.data())
def test_fuse_dense_equals_composition(widths, biases, with_norm, data):
    rng = np.random.default_rng(0)
    pairs = zip(widths, widths[1:], strict=False)
    denses = [dense(rng, i, o, bias) for (i, o), bias in zip(pairs, biases, strict=False)]
    norms, x = [], rng.normal(size=(3, widths[0]))
    want = x
    for d_in, layer in zip(widths, denses, strict=False):
        norm = None
        if with_norm and data.draw(st.booleans()):
            scale = rng.normal(size=d_in) * (rng.random(d_in) > 0.2)  # some units are dead
            shift, mean, var = rng.normal(size=d_in), rng.normal(size=d_in), rng.random(d_in)
            norm = Norm({"scale": scale, "bias": shift}, {"mean": mean, "var": var}, 1e-5)
            want = (want - mean) / np.sqrt(var + 1e-5) * scale + shift
        norms.append(norm)
        want = run(layer, want)
    fused = fuse_dense(denses, norms)
    assert isinstance(fused["kernel"], np.ndarray)
    assert ("bias" in fused) == (any("bias" in d for d in denses) or any(norms))
    terms = int(np.prod(widths))
    assert_close(run(fused, x), want, dtype=np.float32, terms=terms * 100)


def test_fuse_dense_keeps_numpy_float64():
    rng = np.random.default_rng(0)
    denses = [dense(rng, 3, 4, True, np.float64), dense(rng, 4, 2, True, np.float64)]
    fused = fuse_dense(denses)
    np.testing.assert_allclose(
        fused["kernel"], denses[0]["kernel"] @ denses[1]["kernel"], rtol=1e-15
    )


def test_fuse_dense_rounds_bfloat16_once():
    kernels = [jax.random.normal(jax.random.key(i), (32, 32)) for i in range(3)]
    kernels = [kernel.astype(jnp.bfloat16) for kernel in kernels]
    fused = fuse_dense([{"kernel": kernel} for kernel in kernels])["kernel"]
    exact = np.linalg.multi_dot([np.asarray(kernel, np.float64) for kernel in kernels])
    assert fused.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(fused, np.float64), exact, rtol=2**-8, atol=1e-4)


def test_fuse_dense_of_shapes_gives_shapes():
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.bfloat16)
    fused = fuse_dense([{"kernel": shape(3, 4), "bias": shape(4)}, {"kernel": shape(4, 2)}])
    assert fused == {"kernel": shape(3, 2), "bias": shape(2)}


@pytest.mark.parametrize(
    ("first", "second", "fused"),
    [
        (("fsdp", "tensor"), ("tensor", "fsdp"), ("fsdp", None)),
        ((None, "tensor"), ("tensor", None), (None, None)),
        (("data", None), (None, "tensor"), ("data", "tensor")),
        ((("a", "b"), None), (None, ("b", "c")), (("a", "b"), "c")),
        ((), (None, "x"), (None, "x")),
    ],
)
def test_fused_spec_drops_repeated_axes(first, second, fused):
    assert fused_spec(jax.P(*first), jax.P(*second), 2) == jax.P(*fused)
