import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcjax.algebra import moments

pytestmark = pytest.mark.usefixtures("strict_promotion")

measure = jax.jit(moments.measure, static_argnames="unitwise")
merge = jax.jit(moments.merge)
TOKENS, D_IN, D_OUT = 24, 5, 3
rng = np.random.default_rng(0)
# Far from zero, so that second moments not centred would lose their digits.
X = (rng.normal(size=(TOKENS, D_IN)) + 100).astype(np.float32)
T = (rng.normal(size=(TOKENS, D_OUT)) - 50).astype(np.float32)


def reference(x, t, unitwise):
    """Plain float64 moments of the stacked tokens."""
    x, t = np.float64(x), np.float64(t)
    dx, dt = x - x.mean(0), t - t.mean(0)
    if unitwise:
        return len(x), x.mean(0), t.mean(0), (dx**2).sum(0), (dx * dt).sum(0), (dt**2).sum(0)
    return len(x), x.mean(0), t.mean(0), dx.T @ dx, dx.T @ dt, (dt**2).sum()


def assert_moments(got, want):
    parts = (got.count, got.mean_x, got.mean_t, got.xx, got.xt, got.tt)
    for part, wanted in zip(parts, want, strict=True):
        np.testing.assert_allclose(part, wanted, rtol=2e-5, atol=2e-4)


@settings(max_examples=10, deadline=None)
@given(
    cuts=st.sets(st.sampled_from([8, 16])),
    keep=st.lists(st.booleans(), min_size=TOKENS, max_size=TOKENS).filter(any),
    unitwise=st.booleans(),
)
def test_moments_merge_to_those_of_all_tokens(cuts, keep, unitwise):
    t = X[:, ::-1] ** 2 / 100 if unitwise else T
    keep = np.array(keep)
    masked = np.where(keep[:, None], X, np.nan)  # what does not count may be anything
    edges = [0, *sorted(cuts), TOKENS]
    merged = None
    for start, end in zip(edges, edges[1:], strict=False):
        part = slice(start, end)
        one = measure(
            jnp.asarray(masked[part]), jnp.asarray(t[part]), keep[part], unitwise=unitwise
        )
        merged = one if merged is None else merge(merged, one)
    assert_moments(merged, reference(X[keep], t[keep], unitwise))


@pytest.mark.parametrize("unitwise", [False, True])
def test_a_whole_weight_counts_as_so_many_tokens(unitwise):
    t = X[:, ::-1] ** 2 / 100 if unitwise else T
    weights = np.arange(TOKENS) % 4
    masked = np.where(weights[:, None] > 0, X, np.nan)
    half = weights.astype(np.float32)[:12], weights.astype(np.float32)[12:]
    parts = [
        measure(jnp.asarray(masked[at]), jnp.asarray(t[at]), weight, unitwise=unitwise)
        for at, weight in zip((slice(12), slice(12, None)), half, strict=True)
    ]
    repeated = np.repeat(np.arange(TOKENS), weights)
    assert_moments(merge(*parts), reference(X[repeated], t[repeated], unitwise))
    small = measure(jnp.asarray(X), jnp.asarray(t), weights * np.float32(1e-9), unitwise=unitwise)
    assert_moments(moments.scaled(small, 1e9), reference(X[repeated], t[repeated], unitwise))


def test_moments_count_leading_axes_as_tokens():
    got = measure(jnp.asarray(X.reshape(2, 4, 3, D_IN)), jnp.asarray(T.reshape(2, 4, 3, D_OUT)))
    assert_moments(got, reference(X, T, False))


def test_moments_of_an_empty_batch_change_nothing():
    some = measure(jnp.asarray(X), jnp.asarray(T))
    nothing = measure(jnp.full_like(X, jnp.nan), jnp.asarray(T), np.zeros(TOKENS, bool))
    for merged in (merge(some, nothing), merge(nothing, some)):
        assert_moments(merged, reference(X, T, False))


def test_moments_have_float32_or_float64():
    shape = lambda dtype: jax.ShapeDtypeStruct((TOKENS, D_IN), dtype)
    half = jax.eval_shape(measure, shape(jnp.bfloat16), shape(jnp.bfloat16))
    assert half.xx.dtype == half.count.dtype == jnp.float32
    with jax.enable_x64(True):
        double = jax.eval_shape(measure, shape(jnp.float64), shape(jnp.float32))
    assert double.xx.dtype == jnp.float64


@pytest.mark.parametrize(
    ("arrays", "unitwise"),
    [((X, T[1:]), False), ((X, T, np.ones(TOKENS - 1, bool)), False), ((X, T), True)],
    ids=["fewer targets", "shorter mask", "unitwise with other widths"],
)
def test_measure_rejects_other_shapes(arrays, unitwise):
    with pytest.raises(AssertionError, match="shape"):
        moments.measure(*arrays, unitwise=unitwise)
