import flax.linen as nn
import jax
import numpy as np
import pytest

from lcjax import CollapseError, CollapsibleMLP
from lcjax.structure.capture import ValueName, capture


def into(path):
    return ValueName("input", path)


def out_of(path):
    return ValueName("output", path)


def residual(path):
    return ValueName("residual", path)


X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
NAMES = [into("mlp/dense_0"), into("mlp/act_0"), out_of("mlp/act_0"), out_of("mlp/dense_1")]


class Net(nn.Module):
    """A chain, perhaps lifted by a transform."""

    lift: str = "none"

    @nn.compact
    def __call__(self, x):
        lifts = {"remat": nn.remat, "jit": nn.jit}
        chain = lifts.get(self.lift, lambda cls: cls)(CollapsibleMLP)
        return chain((8, 5), nn.relu, name="mlp")(x)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(Net().init)(jax.random.key(0), X)


def assert_values(found, variables):
    first, second = (variables["params"]["mlp"][f"dense_{i}"] for i in (0, 1))
    z = X @ first["kernel"] + first["bias"]
    a = np.maximum(z, 0)
    for name, want in zip(NAMES, (X, z, a, a @ second["kernel"] + second["bias"]), strict=True):
        (value,) = found[name]
        np.testing.assert_allclose(value, want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lift", ["none", "remat", "jit"])
def test_capture_returns_values_of_wrapped_modules(variables, lift):
    model = Net(lift)
    assert_values(capture(model.apply, variables, (X,), NAMES), variables)
    jitted = jax.jit(model.apply)
    jitted(variables, X)  # a cached trace has no names
    for run in (jitted, jax.jit(lambda v, x: jax.vjp(model.apply, v, x)[0])):
        found = jax.jit(lambda v, x, run=run: capture(run, v, (x,), NAMES))(variables, X)
        assert_values(found, variables)
    np.testing.assert_array_equal(jitted(variables, X), model.apply(variables, X))


def test_capture_keeps_functions_around_the_model(variables):
    def doubled(v, x):
        return Net().apply(v, 2 * x)

    doubled.__wrapped__ = Net().apply  # as functools.wraps leaves it
    found = capture(doubled, variables, (X,), [into("mlp/dense_0")])
    np.testing.assert_array_equal(found[into("mlp/dense_0")][0], 2 * X)


def test_capture_returns_one_value_per_call(variables):
    twice = lambda v, x: Net().apply(v, x) + Net().apply(v, -x)
    first, second = capture(twice, variables, (X,), [into("mlp/dense_0")])[into("mlp/dense_0")]
    np.testing.assert_array_equal(first, -second)


class Residual(nn.Module):
    """Two chains added to a stream: one laid out otherwise, one scaled, in remat or not."""

    @nn.compact
    def __call__(self, x):
        y = CollapsibleMLP((8, 4), nn.relu, name="turned")(x.swapaxes(0, 1))
        x = x[None] + y.swapaxes(0, 1).astype(x.dtype)[None]
        return x + 2 * CollapsibleMLP((8, 6), nn.relu, name="scaled")(x)


@pytest.mark.parametrize("lift", [lambda cls: cls, nn.remat], ids=["none", "remat"])
def test_capture_returns_residuals_in_the_layout_of_outputs(lift):
    model = lift(Residual)()
    variables = jax.jit(model.init)(jax.random.key(0), X)
    names = [out_of("turned/dense_1"), residual("turned/dense_1"), residual("scaled/dense_1")]
    found = jax.jit(lambda v, x: capture(model.apply, v, (x,), names))(variables, X)
    np.testing.assert_array_equal(found[residual("turned/dense_1")][0], X.T)
    assert found[out_of("turned/dense_1")][0].shape == X.T.shape
    assert found[residual("scaled/dense_1")] == []


def test_capture_rejects_scan_vmap_and_missing_modules(variables):
    run = Net().apply
    with pytest.raises(
        CollapseError, match=r"dense_1: its values have shape \(4, 5\), with more axes"
    ):
        rows = jax.vmap(run, in_axes=(None, 0))
        capture(rows, variables, (X,), [out_of("mlp/dense_1")])
    with pytest.raises(CollapseError, match="mlp/dense_1: is inside `scan`, from which values"):
        loop = lambda v, x: jax.lax.map(lambda row: run(v, row), x)
        capture(loop, variables, (X,), [out_of("mlp/dense_1")])
    with pytest.raises(CollapseError, match="mlp/dense_1: apply_fn does not call this module"):
        capture(lambda v, x: x, variables, (X,), [out_of("mlp/dense_1")])
