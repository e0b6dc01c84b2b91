"""A slope for each hidden unit under the penalties: prices, rest points, and old behaviour."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from lcjax import CollapsibleMLP, linearity_penalty, with_linearity_penalty, with_unit_slopes
from lcjax.optim import add_linearity_penalty, anneal_slopes, proximal_linearity_penalty

pytestmark = pytest.mark.promotes

UNITS = 6


def params_of(slope, *, units=None, layers=()):
    shape = (*layers, units) if units else layers
    return {
        "dense_0": {"kernel": jnp.ones((*layers, 3, UNITS))},
        "act_0": {"slope": jnp.full(shape, slope, jnp.float32)},
        "dense_1": {"kernel": jnp.ones((*layers, UNITS, 3))},
    }


def step(tx, params, gradient, state=None):
    state = tx.init(params) if state is None else state
    grads = jax.tree.map(jnp.zeros_like, params)
    shape = params["act_0"]["slope"].shape
    grads["act_0"] = {"slope": jnp.broadcast_to(jnp.float32(gradient), shape)}
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("layers", [(), (2,)])
def test_price_of_a_site_is_that_of_one_slope(penalty, layers):
    for slope in (0.0, 0.25, 1.5):
        one, each = (params_of(slope, units=u, layers=layers) for u in (None, UNITS))
        prices = [linearity_penalty(p, penalty=penalty, weights=0.5) for p in (one, each)]
        np.testing.assert_allclose(*prices, rtol=1e-6)


def test_stacked_slopes_of_sites_are_not_those_of_units():
    """As many layers as units: the kernel tells the two apart."""
    stacked = params_of(0.5, layers=(UNITS,))
    assert stacked["act_0"]["slope"].shape == params_of(0.5, units=UNITS)["act_0"]["slope"].shape
    assert float(linearity_penalty(stacked)) == pytest.approx(0.25 * UNITS)
    assert float(linearity_penalty(params_of(0.5, units=UNITS))) == pytest.approx(0.25)


TRANSFORMS = {
    "wrapper": lambda penalty: with_linearity_penalty(
        optax.sgd(0.1), strength=0.1, penalty=penalty, slope_learning_rate=0.5, momentum=0.0
    ),
    "anneal": lambda _: anneal_slopes(optax.linear_schedule(0, 1, 4)),
}


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_slopes_with_a_share_of_the_gradient_move_as_one_slope(name, penalty):
    tx = TRANSFORMS[name](penalty)
    (one, s1), (each, s2) = (
        step(tx, params_of(0.25, units=units), 0.03 / (units or 1)) for units in (None, UNITS)
    )
    for _ in range(3):
        one, s1 = step(tx, one, 0.03, s1)
        each, s2 = step(tx, each, 0.03 / UNITS, s2)
    got = each["act_0"]["slope"]
    np.testing.assert_allclose(got, jnp.full(UNITS, one["act_0"]["slope"]), rtol=1e-5)


@pytest.mark.parametrize(
    "make", [add_linearity_penalty, lambda s: proximal_linearity_penalty(1, s)]
)
def test_transforms_divide_the_strength_by_the_number_of_units(make):
    one, _ = step(make(0.12), params_of(0.25), 0.0)
    each, _ = step(make(0.12 * UNITS), params_of(0.25, units=UNITS), 0.0)
    want = jnp.full(UNITS, one["act_0"]["slope"])
    np.testing.assert_allclose(each["act_0"]["slope"], want, rtol=1e-6)


def test_each_unit_rests_at_one_exactly_where_its_gradient_is_below_its_share():
    tx = with_linearity_penalty(optax.adam(1e-3), strength=0.06, slope_learning_rate=0.5)
    params = params_of(0.0, units=UNITS)
    gradient = jnp.array([0.0, 0.9, -0.9, 1.1, 1.1, -1.1]) * 0.06 / UNITS
    train = jax.jit(lambda params, state: step(tx, params, gradient, state))
    state = tx.init(params)
    for _ in range(400):
        params, state = train(params, state)
    slope = np.asarray(params["act_0"]["slope"])
    np.testing.assert_array_equal(slope[:3], 1)
    assert (slope[3:5] < 0).all() and slope[5] > 1.5


@pytest.mark.slow
def test_units_that_stay_after_a_fold_keep_their_price_and_momentum():
    model, x = CollapsibleMLP((24, 4), nn.gelu, slope_per="unit"), jnp.ones((2, 5))
    params = model.init(jax.random.key(0), x)["params"]
    params["act_0"] = {"slope": jnp.linspace(0, 0.6, 24).at[4:20].set(1)}
    tx = with_linearity_penalty(optax.adam(1e-3), strength=0.1)
    _, state = tx.update(params, tx.init(params), params)
    compact, report = lcjax.collapse(params)
    carried = lcjax.carry_opt_state(tx, state, params, compact, report)
    old, new = state.shrink.weights["act_0"]["slope"], carried.shrink.weights["act_0"]["slope"]
    assert float(old) == float(new) == pytest.approx(1 / 24)
    assert bool(carried.selected["act_0"]["slope"])
    momentum = state.momentum["act_0"]["slope"][report.units["act_0"]]
    np.testing.assert_array_equal(carried.momentum["act_0"]["slope"], momentum)
    tx.update(compact, carried, compact)


def test_warns_of_steps_that_do_not_suffice_as_for_one_slope():
    make = lambda steps: with_linearity_penalty(
        optax.sgd(0.1), strength=0.1, slope_learning_rate=0.5, steps=steps
    )
    for units in (None, UNITS):
        make(20).init(params_of(0.0, units=units))
        with pytest.warns(UserWarning, match="would end at gap 0.050"):
            make(19).init(params_of(0.0, units=units))


def test_one_huge_gradient_moves_a_unit_by_at_most_1():
    tx = with_linearity_penalty(optax.sgd(0.1), strength=0.0, slope_learning_rate=0.5, momentum=0)
    params, _ = step(tx, params_of(0.0, units=UNITS), 1e6)
    np.testing.assert_allclose(params["act_0"]["slope"], -1, rtol=1e-6)


def test_program_of_one_slope_is_not_changed_by_the_shapes_of_kernels():
    """The update of a site with a scalar slope is the same where no kernel is next to it."""
    tx = with_linearity_penalty(optax.adam(1e-3), strength=0.1)
    near, far = params_of(0.25), params_of(0.25)
    far["act_9"] = far.pop("act_0")
    texts = []
    for params in (near, far):
        lowered = jax.jit(tx.update).lower(params, tx.init(params), params)
        texts.append(lowered.as_text())
    assert texts[0].count("stablehlo.") == texts[1].count("stablehlo.")


@pytest.mark.slow
def test_units_that_can_be_linear_are_brought_to_exactly_one():
    """The target is linear plus three relus: most units of a wide layer become linear."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (1024, 4))
    directions = jax.random.normal(jax.random.key(1), (4, 3))
    y = x @ jax.random.normal(jax.random.key(2), (4, 2)) + nn.relu(x @ directions)[:, :2] * 2
    model = CollapsibleMLP((16, 2), nn.relu, slope_per="unit")
    params = model.init(jax.random.key(3), x)
    tx = with_linearity_penalty(optax.adam(1e-2), strength=0.02, slope_learning_rate=0.05)
    loss = lambda params: jnp.mean((model.apply(params, x) - y) ** 2)

    def one(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(one, carry, length=1500)[0])
    params, _ = run((params, tx.init(params)))
    slope = np.asarray(params["params"]["act_0"]["slope"])
    assert 8 <= (slope == 1).sum() < 16
    assert float(loss(params)) < 0.05


def test_with_unit_slopes_keeps_the_function_and_all_sites():
    model = CollapsibleMLP((8, 8, 2), nn.gelu)
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    params = lcjax.map_slopes(lambda s: s + 0.3, model.init(jax.random.key(0), x))
    units = with_unit_slopes(params)
    assert {k: v.shape for k, v in lcjax.slopes(units).items()} == {"act_0": (8,), "act_1": (8,)}
    np.testing.assert_array_equal(model.apply(units, x), model.apply(params, x))
    again = with_unit_slopes(units)
    assert lcjax.slopes(again)["act_1"].shape == (8,)
