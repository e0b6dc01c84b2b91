"""`lcjax.eqx`: an Equinox module in, a smaller Equinox module out."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from tests.helpers.functions import close
from tests.lcjax.eqx.models import (
    LENGTH,
    VOCAB,
    WIDTH,
    Dropped,
    FeedForward,
    Gated,
    Outer,
    Residual,
    Scaling,
    Scanned,
    Transformer,
)

KEY = jax.random.key(0)
TOKENS = jax.random.randint(jax.random.key(1), (4, LENGTH), 0, VOCAB)
X = jax.random.normal(jax.random.key(2), (32, WIDTH))
LINEAR = lcjax.Exact(max_gap=1)


def batched(model, x):
    return jax.vmap(model)(x)


run = eqx.filter_jit(batched)


@pytest.fixture(scope="module")
def model():
    return eqx.filter_jit(Transformer)([FeedForward, Gated], KEY)


@pytest.fixture(scope="module")
def small(model):
    fits = {"blocks/0/*": lcjax.LeastSquares(), "blocks/1/*": lcjax.Units(6)}
    found, report = lcjax.eqx.collapse(model, TOKENS, fn=batched, data=[TOKENS], fit=fits)
    assert report.collapsed == ("blocks/0/mlp/up",)
    assert report.parameters_after < report.parameters_before
    return found


def test_mlp_becomes_a_linear_that_computes_the_same():
    deep = eqx.nn.MLP(WIDTH, 3, 16, depth=1, activation=lambda x: 2 * x, key=KEY)
    deep = eqx.tree_at(lambda m: m.activation, deep, jax.nn.relu)
    slopes = lcjax.map_slopes(jnp.ones_like, lcjax.eqx.add_slopes(deep, X[0]))
    small, report = lcjax.eqx.collapse(slopes, X, fn=batched)
    assert isinstance(small, eqx.nn.Linear) and report.collapsed == ("layers/0",)
    assert small.weight.shape == (3, WIDTH) and small.out_features == 3
    close(run(small, X), run(slopes, X))
    factors, _ = lcjax.eqx.collapse(slopes, X[0], fit=lcjax.Exact(rank=1))
    assert isinstance(factors, eqx.nn.Sequential) and factors[0].weight.shape == (1, WIDTH)


def test_sites_are_those_of_the_model(model):
    assert lcjax.eqx.find_sites(model, TOKENS[0]).paths == ("blocks/0/mlp/up", "blocks/1/mlp/up")
    assert lcjax.eqx.find_sites(model, TOKENS, fn=batched).paths == (
        "blocks/0/mlp/up",
        "blocks/1/mlp/up",
    )
    assert "blocks/1/mlp/out" in str(lcjax.eqx.explain(model, TOKENS[0]))


def test_innermost_modules_are_replaced(model, small):
    assert isinstance(small, Transformer) and isinstance(small.blocks[0].mlp, eqx.nn.Linear)
    gated = small.blocks[1].mlp
    assert isinstance(gated, lcjax.eqx.Collapsed) and gated.name == "gated"
    assert gated.gate is None and model.blocks[1].mlp.gate is not None
    assert small.head.weight is model.head.weight
    (key,) = map(lcjax.FusedKey.parse, gated.fused)
    assert (key.sites, key.forms, key.units) == (("up",), ("units",), (6,))
    assert run(small, TOKENS).shape == (4, LENGTH, VOCAB)
    sites = lcjax.eqx.find_sites(small, TOKENS, fn=batched)
    assert sites.paths == ("blocks/1/mlp/up",) and sites[0].d_hidden == 6


@pytest.mark.slow
def test_result_is_an_equinox_module(small):
    expected = run(small, TOKENS)
    close(eqx.filter_jit(batched)(small, TOKENS), expected)
    grads = eqx.filter_grad(lambda model: run(model, TOKENS).mean())(small)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads.blocks[1].mlp))
    doubled = eqx.tree_at(lambda m: m.blocks[0].mlp.weight, small, replace_fn=lambda w: 2 * w)
    assert not np.allclose(run(doubled, TOKENS), expected)
    arrays, static = eqx.partition(small, eqx.is_array)
    close(run(eqx.combine(arrays, static), TOKENS), expected)
    assert str(small) and eqx.tree_equal(small, small)


def test_result_is_saved_and_restored(small, tmp_path):
    eqx.tree_serialise_leaves(tmp_path / "small.eqx", small)
    like = jax.tree.map(lambda leaf: 0 * leaf if eqx.is_array(leaf) else leaf, small)
    restored = eqx.tree_deserialise_leaves(tmp_path / "small.eqx", like)
    np.testing.assert_array_equal(run(restored, TOKENS), run(small, TOKENS))


def test_abstract_model_is_the_skeleton_of_a_saved_one(model, tmp_path):
    small, report = lcjax.eqx.collapse(model, TOKENS[0], fit=LINEAR)
    eqx.tree_serialise_leaves(tmp_path / "small.eqx", small)
    shapes = eqx.filter_eval_shape(lambda: Transformer([FeedForward, Gated], KEY))
    like, _ = lcjax.eqx.trace(shapes, TOKENS[0]).abstract_collapse(report.collapsed, LINEAR)
    restored = eqx.tree_deserialise_leaves(tmp_path / "small.eqx", like)
    np.testing.assert_array_equal(run(restored, TOKENS), run(small, TOKENS))


@pytest.mark.slow
def test_slopes_train_and_collapse_exactly(model):
    slopes = lcjax.eqx.add_slopes(model, TOKENS[0])
    close(run(slopes, TOKENS), run(model, TOKENS))
    params, static = eqx.partition(slopes, eqx.is_inexact_array)
    assert len(lcjax.slopes(params)) == 2
    tx = lcjax.with_linearity_penalty(optax.sgd(1e-2), strength=10.0)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        loss = lambda params: run(eqx.combine(params, static), TOKENS).mean()
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, state)
    assert all(slope > 0 for slope in lcjax.slopes(params).values())
    linear = eqx.combine(lcjax.map_slopes(jnp.ones_like, params), static)
    assert lcjax.eqx.find_sites(linear, TOKENS[0])[0].slope == 1
    small, report = lcjax.eqx.collapse(linear, TOKENS[0])
    assert len(report.collapsed) == 2 and not lcjax.slopes(small)
    close(run(small, TOKENS), run(linear, TOKENS))


def test_slopes_of_some_sites_stay_when_others_collapse(model):
    some = lcjax.eqx.add_slopes(model, TOKENS[0], sites="blocks/1/*")
    assert list(lcjax.slopes(some)) == ["blocks/1/mlp/up"]
    half = lcjax.map_slopes(lambda slope: slope + 0.5, some)
    small, report = lcjax.eqx.collapse(half, TOKENS[0], sites="blocks/0/*", fit=LINEAR)
    assert report.collapsed == ("blocks/0/mlp/up",)
    assert lcjax.slopes(small)["blocks/1/mlp/up"] == 0.5
    assert isinstance(small.blocks[0].mlp, eqx.nn.Linear)
    again, report = lcjax.eqx.collapse(small, TOKENS[0], fit=LINEAR)
    assert report.collapsed == ("blocks/1/mlp/up",) and not lcjax.slopes(again)


@pytest.mark.slow
def test_pair_of_a_deeper_mlp_collapses_in_it():
    deep = eqx.nn.MLP(WIDTH, 3, 16, depth=3, key=KEY)
    call = lcjax.eqx.trace(deep, X, fn=batched)
    small, report = call.collapse(calibration=call.calibrate([X], "layers/1"))
    assert isinstance(small, lcjax.eqx.Collapsed) and report.collapsed == ("layers/1",)
    assert small.in_size == WIDTH and run(small, X).shape == (32, 3)
    rest = lcjax.eqx.find_sites(small, X, fn=batched)
    assert rest.paths == ("layers/0", "layers/2")
    all_linear, _ = lcjax.eqx.collapse(small, X, fn=batched, fit=LINEAR)
    assert isinstance(all_linear, eqx.nn.Linear)
    close(run(all_linear, X), run(_without_activations(small, X), X))


def _without_activations(model, x):
    return lcjax.map_slopes(jnp.ones_like, lcjax.eqx.add_slopes(model, x, fn=batched))


@pytest.mark.slow
def test_layers_under_scan_collapse_together():
    deep = Scanned(KEY)
    linear = _without_activations(deep, X)
    assert lcjax.slopes(linear)["layers/up"].shape == (3,)
    small, report = lcjax.eqx.collapse(linear, X, fn=batched)
    assert report.collapsed == ("layers/up",) and isinstance(small.layers, lcjax.eqx.Collapsed)
    assert small.layers.stack == (3,)
    close(run(small, X), run(linear, X))
    assert not lcjax.eqx.find_sites(small, X, fn=batched)


def test_module_that_does_more_than_the_pair_keeps_its_call():
    deep = Residual(KEY)
    small, _ = lcjax.eqx.collapse(deep, X[0], fit=LINEAR)
    assert isinstance(small, lcjax.eqx.Collapsed)
    close(run(small, X), run(_without_activations(deep, X), X))
    with pytest.raises(lcjax.CollapseError, match="up: is fused in this tree, but"):
        small.hidden(X[0])


def test_slopes_have_the_names_of_their_sites():
    made = lcjax.eqx.add_slopes(Outer(Scaling(KEY)), X[0])
    assert list(lcjax.slopes({"slopes": made})) == ["slopes/inner/up"]
    model = eqx.filter(made, eqx.is_inexact_array)
    sites = lcjax.eqx.find_sites(made, X[0]).paths
    assert tuple(lcjax.slopes(model)) == sites == ("inner/up",)
    tx = lcjax.with_linearity_penalty(optax.sgd(0.1), strength=1.0, weights={"inner/up": 2.0})
    assert jax.tree.leaves(tx.init(model))


def test_module_whose_fields_are_read_keeps_them():
    deep = Outer(Scaling(KEY))
    linear = _without_activations(deep, X)
    small, report = lcjax.eqx.collapse(linear, X, fn=batched)
    assert report.collapsed == ("inner/up",) and isinstance(small.inner, lcjax.eqx.Collapsed)
    close(run(small, X), run(linear, X))


def test_dropout_around_the_pair_stays():
    deep = eqx.nn.inference_mode(Dropped(KEY))
    small, _ = lcjax.eqx.collapse(deep, X[0], fit=LINEAR)
    again = eqx.nn.inference_mode(small, False)
    key = jax.random.key(5)
    dropped = jnp.where(jax.random.bernoulli(key, 0.5, (WIDTH,)), small(X[0]) * 2, 0)
    close(again(X[0], key=key), dropped)


@pytest.mark.slow
def test_metrics_are_called_with_models(model):
    call = lcjax.eqx.trace(model, TOKENS, fn=batched)
    seen = []

    def metric(model):
        seen.append(run(model, TOKENS))
        return -float(jnp.abs(seen[-1] - seen[0]).mean())

    costs = call.sensitivity(metric, [TOKENS], sites="blocks/0/*").costs
    assert len(seen) == 2 and [cost.site for cost in costs] == ["blocks/0/mlp/up"]


class Scaled(eqx.Module):
    """An array with the name that NNX has for that in a Param."""

    value: jax.Array

    def __call__(self, x):
        return x @ self.value


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: lcjax.eqx.find_sites(lambda x: x, X), TypeError, "expected an eqx.Module"),
        (lambda: lcjax.eqx.trace(Residual(KEY), X[0], fn=3), TypeError, "fn"),
        (
            lambda: lcjax.eqx.add_slopes(eqx.nn.Linear(WIDTH, 2, key=KEY), X[0]),
            lcjax.CollapseError,
            "the model has no site",
        ),
        (
            lambda: lcjax.eqx.collapse(Residual(KEY), X[0], sites="down"),
            lcjax.CollapseError,
            "'down' matches no site. The sites are: up",
        ),
        (
            lambda: lcjax.eqx.collapse(Residual(KEY), X[0], fit={"up": LINEAR}),
            ValueError,
            "expected data with it",
        ),
        (
            lambda: lcjax.eqx.collapse(eqx.nn.Linear(WIDTH, 2, key=KEY), X[0], data=[X[0]]),
            lcjax.CollapseError,
            "the model has no site",
        ),
        (
            lambda: lcjax.eqx.trace(eqx.nn.Lambda(Scaled(jnp.ones((WIDTH, 3)))), X[0]),
            lcjax.CollapseError,
            "got a kernel named value",
        ),
    ],
)
def test_wrong_uses(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_equinox_is_optional():
    code = """
import sys
sys.modules["equinox"] = None
import lcjax
try:
    lcjax.eqx
except ImportError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "lcjax.eqx needs Equinox: pip install 'equinox>=0.13'."


def test_functions_of_trees_name_the_package_for_modules(tmp_path):
    model = eqx.nn.MLP(2, 2, 4, 1, key=KEY)
    for use in (lcjax.find_sites, lcjax.collapse):
        with pytest.raises(TypeError, match=r"got an Equinox module, MLP, .*Use lcjax\.eqx"):
            use(model)
    with pytest.raises(TypeError, match=r"Pass eqx\.filter\(model, eqx\.is_array\)"):
        lcjax.save(tmp_path / "model", model)
