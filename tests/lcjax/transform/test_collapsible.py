import chex
import jax
import jax.numpy as jnp
import pytest

import lcjax
from lcjax.tree.paths import leaf_path
from tests.helpers.functions import ACTIVATIONS, CASES, PAIR, X, close, gated, pair, sloped

QUICK = ("no biases", "every activation", "norm after", "SwiGLU", "chain", "scan", "remat")


def _marks(name):
    if name == "dropout by product":  # of floats and booleans
        return pytest.mark.slow, pytest.mark.promotes
    return () if name in QUICK else pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in CASES])
def test_call_at_slope_0_is_bitwise_identical(name):
    case, f = CASES[name], lcjax.collapsible(CASES[name].fn)
    params = f.init(case.params, *case.inputs)
    chex.assert_trees_all_equal(f(params, *case.inputs), case.fn(case.params, *case.inputs))


@pytest.mark.promotes
@pytest.mark.parametrize("name", CASES)
def test_collapse_of_every_case(name):
    case, f = CASES[name], lcjax.collapsible(CASES[name].fn)
    params = f.init(case.params, *case.inputs)
    assert f.trace(params, *case.inputs).sites.paths == case.sites == tuple(params["slopes"])
    linear = sloped(params, 1)
    compact, report = f.trace(linear, *case.inputs).collapse()
    one_by_one = linear
    for site in reversed(case.sites):
        one_by_one, _ = f.trace(one_by_one, *case.inputs).collapse(site)
    close(one_by_one, compact)
    assert report.collapsed == case.sites and compact["slopes"] == {}
    run = lambda trees, *inputs: [f(tree, *inputs) for tree in trees]
    original, deep, bent, fused = jax.jit(
        lambda params, trees, *inputs: [case.fn(params, *inputs), *run(trees, *inputs)]
    )(case.params, [params, linear, compact], *case.inputs)
    close(deep, original)
    drops = any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in case.inputs)
    if not drops:  # a collapsed site has no dropout
        close(fused, bent)
    held = jax.tree.leaves((compact["model"], compact["fused"]))
    assert report.parameters_before == sum(leaf.size for leaf in jax.tree.leaves(case.params))
    assert report.parameters_after == sum(leaf.size for leaf in held) < report.parameters_before
    assert set(report.new_leaves) == {path for path in paths(compact) if path.startswith("fused/")}


def paths(tree):
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [leaf_path(keys) for keys, _ in flat]


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("act", ["relu", "exact gelu", "PReLU"])
def test_values_and_gradients_equal_the_formula(slope, act):
    fn = CASES[act].fn if act in CASES else pair(ACTIVATIONS[act])
    model = CASES["PReLU"].params
    f = lcjax.collapsible(fn)
    params = sloped(f.init(model, X), slope)

    def formula(model, slope):
        linear = pair(lambda z: z)(model, X)  # the Dense after is affine, so outputs mix alike
        return ((slope * linear + (1 - slope) * fn(model, X)) ** 2).sum()

    @jax.jit
    def both(params):
        slope, model = params["slopes"]["w1"]["slope"], params["model"]
        got = jax.value_and_grad(lambda tree: (f(tree, X) ** 2).sum())(params)
        return got, jax.value_and_grad(formula, (0, 1))(model, slope)

    (value, gradient), (want, (model, by_slope)) = both(params)
    close(value, want, terms=2000)
    close(gradient["model"], model, terms=2000)
    close(gradient["slopes"]["w1"]["slope"], by_slope, terms=2000)


def test_gated_unit_with_slope():
    f = lcjax.collapsible(gated(jax.nn.silu))
    p = CASES["SwiGLU"].params
    params = sloped(f.init(p, X), 0.25)
    gate, value = jax.nn.silu(X @ p["g"]), X @ p["w1"]
    close(f(params, X), (0.75 * gate * value + 0.25 * value) @ p["w2"])
    (site,) = f.trace(params, X).sites
    assert (site.d_in, site.d_hidden, site.d_out) == (6, 16, 4)
    assert (site.parameters_before, site.parameters_after) == (6 * 32 + 64, 24)


def test_custom_derivative_of_activation():
    """jax.nn.relu has slope 0 at 0, where `max` would have one half."""
    f = lcjax.collapsible(pair(jax.nn.relu))
    model = PAIR | {"w1": jnp.zeros_like(PAIR["w1"]), "b1": jnp.zeros_like(PAIR["b1"])}
    gradient = lambda fn, params: jax.grad(lambda p: fn(p, X).sum())(params)
    want = gradient(pair(jax.nn.relu), model)
    for slope in (0.0, 0.5):
        got = gradient(f, sloped(f.init(model, X), slope))["model"]
        chex.assert_trees_all_equal(got["w1"], want["w1"] + slope * want_linear(model, slope))


def want_linear(model, slope):
    return 0 if not slope else jax.grad(lambda p: pair(lambda z: z)(p, X).sum())(model)["w1"]


def test_backward_pass_saves_one_hidden_value():
    f = lcjax.collapsible(pair(jax.nn.gelu))
    params = sloped(f.init(PAIR, X), 0.5)
    _, pull = jax.vjp(lambda params: f(params, X), params)
    hidden = [leaf for leaf in jax.tree.leaves(pull) if jnp.shape(leaf) == (3, 5, 16)]
    assert len(hidden) == 2  # z, and the input of the Dense after
