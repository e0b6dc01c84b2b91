"""Optimizer states of units that stay where an MLP is narrowed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from lcjax import carry_opt_state
from tests.helpers.narrowed import narrowed
from tests.helpers.trees import random_chain

pytestmark = pytest.mark.promotes

WIDTHS, D_IN = (8, 7, 5), 6
STAY = {0: np.array([1, 4, 6]), 1: np.array([0, 5])}
X = np.random.default_rng(0).normal(size=(16, D_IN)).astype(np.float32)


def trained(tx, steps=3):
    model, variables = random_chain(WIDTHS, D_IN)
    params = jax.tree.map(jnp.asarray, variables["params"])

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: (model.apply({"params": p}, X) ** 2).mean())(
            params
        )
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = tx.init(params)
    for _ in range(steps):
        params, state, _ = step(params, state)
    return step, params, state


@pytest.mark.parametrize("units", [STAY, {0: STAY[0]}, {1: STAY[1]}], ids=["both", "0", "1"])
@pytest.mark.slow
def test_moments_of_units_that_stay_are_cut_like_their_params(units):
    tx = optax.adam(1e-3)
    _, params, state = trained(tx)
    compact, report = narrowed(params, units, linear=[1])
    carried = carry_opt_state(tx, state, params, compact, report)
    rows, columns = [units.get(i, np.arange(WIDTHS[i])) for i in (0, 1)]
    for old, new in zip(state[0][1:], carried[0][1:], strict=True):
        kernel = old["dense_0"]["kernel"]
        np.testing.assert_array_equal(new["dense_0"]["kernel"], kernel[:, rows])
        np.testing.assert_array_equal(new["dense_0"]["bias"], old["dense_0"]["bias"][rows])
        middle = old["dense_1"]["kernel"][rows][:, columns]
        np.testing.assert_array_equal(new["dense_1"]["kernel"], middle)
        np.testing.assert_array_equal(new["dense_2"]["kernel"], old["dense_2"]["kernel"][columns])
        biases = {0: old["dense_1"]["bias"][columns], 1: old["dense_2"]["bias"]}
        for i in units:
            np.testing.assert_array_equal(new[f"bypass_{i}"]["bias"], biases[i])
    if 1 in units:
        assert not carried[0].mu["bypass_1"]["kernel"].any()
        assert (carried[0].nu["bypass_1"]["kernel"] > 0).all()
    assert int(carried[0].count) == 3


@pytest.mark.parametrize(
    "tx",
    [
        optax.MultiSteps(optax.adamw(1e-3), 2),
        optax.adafactor(1e-3),
        optax.lion(1e-4),
        optax.contrib.schedule_free_adamw(1e-3),
        optax.contrib.prodigy(),
        optax.sgd(1e-3, momentum=0.9),
    ],
    ids=["multi_steps", "adafactor", "lion", "schedule_free", "prodigy", "momentum"],
)
@pytest.mark.slow
def test_training_goes_on_with_any_optimizer(tx):
    step, params, state = trained(tx)
    compact, report = narrowed(params, STAY, linear=[1])
    compact = jax.tree.map(jnp.asarray, compact)
    carried = carry_opt_state(tx, state, params, compact, report)
    shapes = jax.eval_shape(tx.init, compact)
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, shapes)
    losses = []
    for _ in range(20):
        compact, carried, loss = step(compact, carried)
        losses.append(float(loss))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.slow
def test_training_goes_on_with_factors():
    tx = optax.adam(1e-3)
    step, params, state = trained(tx)
    model, _ = random_chain(WIDTHS, D_IN)
    data = lcjax.CalibrationData([X], holdout=0.0, progress=False)
    compact, report = lcjax.collapse_sequential(
        lambda p, x: model.apply({"params": p}, x), params, data, fit=lcjax.LowRank(2)
    )
    carried = carry_opt_state(tx, state, params, compact, report)
    assert int(carried[0].count) == 3
    assert carried[0].mu["dense_0_in"]["kernel"].shape == (D_IN, 2)
    _, after, _ = step(compact, carried)
    assert int(after[0].count) == 4


def test_values_of_params_in_a_state_are_those_of_the_fitted_kernel():
    tx = optax.contrib.schedule_free_adamw(1e-3)
    _, params, state = trained(tx)
    compact, report = narrowed(params, STAY)
    carried = carry_opt_state(tx, state, params, compact, report)
    np.testing.assert_array_equal(carried.z["dense_2"]["kernel"], compact["dense_2"]["kernel"])
    first = state.z["dense_0"]["kernel"][:, STAY[0]]
    np.testing.assert_array_equal(carried.z["dense_0"]["kernel"], first)


@pytest.mark.slow
def test_states_of_a_bypass_stay_where_fewer_units_are_kept_again():
    tx = optax.adam(1e-3)
    step, params, state = trained(tx)
    compact, report = narrowed(params, STAY, linear=[0, 1])
    compact = jax.tree.map(jnp.asarray, compact)
    state = carry_opt_state(tx, state, params, compact, report)
    compact, state, _ = step(compact, state)
    model, _ = random_chain(WIDTHS, D_IN)
    fit = {"act_1": lcjax.Units(1, linear=True)}
    again, report = lcjax.collapse_sequential(
        lambda params, x: model.apply({"params": params}, x), compact, [X], fit=fit
    )
    carried = carry_opt_state(tx, state, compact, again, report)
    units = report.units["act_1"]
    for old, new in zip(state[0][1:], carried[0][1:], strict=True):
        for name in ("kernel", "bias"):
            was, now = old["bypass_0"][name], new["bypass_0"][name]
            np.testing.assert_array_equal(now, was[..., units])
            was, now = old["bypass_1"][name], new["bypass_1"][name]
            np.testing.assert_array_equal(now, was)
    assert float(jnp.abs(carried[0].mu["bypass_1"]["kernel"]).max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("fit", [lcjax.Units(3), lcjax.Units(3, linear=True)], ids=str)
def test_units_of_a_gated_mlp_keep_their_states(fit):
    model = lcjax.CollapsibleGLU(8, D_IN)
    params = model.init(jax.random.key(0), X)["params"]
    tx = optax.adam(1e-3)
    grads = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), params)
    state = tx.update(grads, tx.init(params), params)[1]
    compact, report = lcjax.collapse_sequential(
        lambda params, x: model.apply({"params": params}, x), params, [X], fit=fit
    )
    carried = carry_opt_state(tx, state, params, compact, report)
    units = report.units["act"]
    for old, new in zip(state[0][1:], carried[0][1:], strict=True):
        for name in ("gate", "up"):
            was, now = old[name]["kernel"], new[name]["kernel"]
            np.testing.assert_array_equal(now, was[:, units])
        np.testing.assert_array_equal(new["down"]["kernel"], old["down"]["kernel"][units])
    assert (carried[0].nu["bypass"]["bias"] > 0).all()
    assert carried[0].nu["bypass"].keys() == compact["bypass"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("fit", [lcjax.Units(3), lcjax.Units(3, linear=True)], ids=str)
@pytest.mark.parametrize("gated", [False, True])
def test_units_of_a_function_keep_their_states(fit, gated):
    def net(params, x):
        hidden = x @ params["up"] + params["bias"]
        hidden = jax.nn.silu(x @ params["gate"]) * hidden if gated else jax.nn.gelu(hidden)
        return hidden @ params["down"] + params["shift"]

    shapes = {"up": (D_IN, 8), "bias": (8,), "down": (8, 5), "shift": (5,)}
    shapes |= {"gate": (D_IN, 8)} if gated else {}
    rng = np.random.default_rng(0)
    model = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    f = lcjax.collapsible(net)
    params = f.init(model, X)
    tx = optax.adam(1e-3)
    grads = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), params)
    state = tx.update(grads, tx.init(params), params)[1]
    compact, report = f.trace(params, X).collapse_sequential([X], fit=fit)
    carried = carry_opt_state(tx, state, params, compact, report)
    (units,) = report.units.values()
    for old, new in zip(state[0][1:], carried[0][1:], strict=True):
        old, (entry,) = old["model"], new["fused"].values()
        first = entry["layers"]["0"]
        np.testing.assert_array_equal(first["kernel"], old["up"][:, units])
        np.testing.assert_array_equal(first["bias"], old["bias"][units])
        np.testing.assert_array_equal(entry["layers"]["1"]["kernel"], old["down"][units])
        np.testing.assert_array_equal(entry["bypass"]["0"]["bias"], old["shift"])
        if gated:
            np.testing.assert_array_equal(entry["gates"]["0"]["kernel"], old["gate"][:, units])
    jitted = jax.jit(lambda *args: carry_opt_state(tx, *args))(state, params, compact, report)
    assert jax.tree.map(jnp.shape, jitted) == jax.tree.map(jnp.shape, carried)


@pytest.mark.slow
def test_the_state_can_be_carried_under_jit():
    tx = optax.adam(1e-3)
    _, params, state = trained(tx)
    compact, report = narrowed(params, STAY)
    plain = carry_opt_state(tx, state, params, compact, report)
    jitted = jax.jit(lambda *args: carry_opt_state(tx, *args))(state, params, compact, report)
    jax.tree.map(np.testing.assert_array_equal, plain, jitted)
