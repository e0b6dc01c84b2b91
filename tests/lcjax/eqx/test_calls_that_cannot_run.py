"""Equinox models that cannot run, or not be collapsed, and names of sites from bare kernels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import lcjax
from tests.helpers.functions import close

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (16, 4))
MLP = eqx.nn.MLP(4, 3, 9, depth=1, key=KEY)


class Pair(eqx.Module):
    """A pair of layers, with a dropout between them, that runs `times` times."""

    up: eqx.nn.Linear
    down: eqx.nn.Linear
    dropout: eqx.nn.Dropout = eqx.nn.Dropout(0.5, inference=True)
    times: int = eqx.field(static=True, default=1)

    def __call__(self, x):
        for _ in range(self.times):
            x = self.down(self.dropout(jax.nn.relu(self.up(x))))
        return x


class Layers(eqx.Module):
    """Layers in a row."""

    layers: list

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class Bare(eqx.Module):
    """A pair of bare kernels, the first of them named as kernels of layers are."""

    weight: jax.Array
    out: jax.Array

    def __call__(self, x):
        return self.out @ jax.nn.relu(self.weight @ x)


class Residual(eqx.Module):
    """A model with a module of bare kernels in it."""

    bare: Bare

    def __call__(self, x):
        return x + self.bare(x)


def batched(model, x):
    return jax.vmap(model)(x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lcjax.eqx.trace(MLP), TypeError, "inputs: got none, on which MLP .*'x'. Pass the"),
        (
            lambda: lcjax.eqx.trace(MLP, X),
            lcjax.CollapseError,
            r"inputs: got an array of shape \(16, 4\), on which MLP .* one example; .* pass fn=",
        ),
        (
            lambda: lcjax.eqx.explain(MLP, X[:, :3], fn=batched),
            lcjax.CollapseError,
            r"\(16, 3\), on which fn with MLP cannot run: .*Expected inputs of the shapes",
        ),
        (
            lambda: lcjax.eqx.collapse(MLP, X, fn=batched, data=[X[:, :3]]),
            lcjax.CollapseError,
            r"inputs: got an array of shape \(16, 3\)",
        ),
        (
            lambda: lcjax.eqx.collapse(MLP, X, fn=batched, data=[(X, X)]),
            TypeError,
            r"inputs: got .*, an array .*Pass the arguments of fn, .*; in data, the tuple of them",
        ),
        (lambda: lcjax.eqx.trace(MLP, X, fn=lambda x: x), TypeError, "arguments of fn, fn.model,"),
        (
            lambda: lcjax.eqx.trace(eqx.nn.inference_mode(pair(), value=False), X[0]),
            lcjax.CollapseError,
            "requires a key .*Pass the model at inference",
        ),
        (
            lambda: lcjax.eqx.collapse(pair(times=2), X, fn=batched, data=[X]),
            lcjax.CollapseError,
            "no site.*up/weight, is used elsewhere too, .*tied weights",
        ),
    ],
)
def test_errors_say_what_was_passed(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def pair(times=1):
    up, down = eqx.nn.Linear(4, 9, key=KEY), eqx.nn.Linear(9, 4, key=KEY)
    return Pair(up, down, times=times)


@pytest.mark.slow
def test_compact_model_has_no_site_left():
    small, _ = lcjax.eqx.collapse(MLP, X, fn=batched, data=[X])
    assert not lcjax.eqx.find_sites(small, X, fn=batched)
    for call in (lcjax.eqx.add_slopes, lcjax.eqx.collapse):
        with pytest.raises(lcjax.CollapseError, match="the model has no site"):
            call(small, X, fn=batched, **({"data": [X]} if call is lcjax.eqx.collapse else {}))
    half, _ = lcjax.eqx.collapse(MLP, X, fn=batched, data=[X], fit=lcjax.Units(4))
    again, report = lcjax.eqx.collapse(half, X, fn=batched, data=[X])
    assert report.collapsed == ("layers/0",) and isinstance(again, eqx.nn.Linear)


def test_one_linear_in_two_places_is_two_layers():
    # An Equinox module is a tree: what is shared in Python is two sets of arrays for JAX.
    shared = eqx.nn.Linear(4, 4, key=KEY)
    model = Layers([shared, shared, eqx.nn.Linear(4, 3, key=KEY)])
    assert lcjax.eqx.find_sites(model, X[0]).paths == ("layers/0", "layers/1")
    small, report = lcjax.eqx.collapse(model, X, fn=batched, data=[X], sites="layers/0")
    assert report.collapsed == ("layers/0",) and batched(small, X).shape == (16, 3)
    tied = eqx.nn.Shared(model, lambda m: m.layers[1].weight, lambda m: m.layers[0].weight)
    with pytest.raises(lcjax.CollapseError, match="(?s)the model has no site.*tied weights"):
        lcjax.eqx.add_slopes(tied, X[0], fn=lambda model, x: model()(x))


def test_slopes_of_bare_kernels_have_the_names_of_their_sites():
    up, out = jax.random.normal(KEY, (9, 4)), jax.random.normal(KEY, (4, 9)) / 5
    bare = Bare(up, out)
    for model, name in ((bare, "weight"), (Residual(bare), "bare")):
        assert lcjax.eqx.find_sites(model, X[0]).paths == (name,)
        sloped = lcjax.eqx.add_slopes(model, X[0])
        assert tuple(lcjax.slopes(sloped)) == (name,)
        tx = lcjax.with_linearity_penalty(optax.sgd(0.1), strength=0.1, sites=[name])
        tx.init(eqx.filter(sloped, eqx.is_inexact_array))
        linear = lcjax.map_slopes(jnp.ones_like, sloped)
        small, report = lcjax.eqx.collapse(linear, X[0])
        assert report.collapsed == (name,)
        close(batched(small, X), batched(linear, X))
