import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcjax import (
    CollapseError,
    SiteSelection,
    add_linearity_penalty,
    anneal_slopes,
    linearity_penalty,
    proximal_linearity_penalty,
    strength_for_gap,
    with_linearity_penalty,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")

SITES = [f"block_{i}/mlp/act_0" for i in (0, 2, 10)]


def tree(*slopes, dtype=jnp.float32):
    """Params of three blocks with these slopes, a kernel beside each."""
    return {
        f"block_{i}": {"mlp": {"act_0": {"slope": jnp.asarray(s, dtype)}, "kernel": jnp.ones(2)}}
        for i, s in zip((0, 2, 10), slopes, strict=True)
    }


def slopes_of(params):
    return [float(params[f"block_{i}"]["mlp"]["act_0"]["slope"]) for i in (0, 2, 10)]


def test_the_loss_term_is_the_papers():
    params = tree(0.0, 0.5, 0.9)
    np.testing.assert_allclose(linearity_penalty(params), 1 + 0.25 + 0.01, rtol=1e-6)
    np.testing.assert_allclose(
        linearity_penalty({"params": params}, sites=SiteSelection(last=2)), 0.26, rtol=1e-6
    )
    got = linearity_penalty(params, weights=[3, 2, 1], penalty="l1")
    np.testing.assert_allclose(got, 3 + 1 + 0.1, rtol=1e-6)
    np.testing.assert_allclose(linearity_penalty(params, sites="block_1*"), 0.01, rtol=1e-5)
    grads = jax.jit(jax.grad(lambda p: linearity_penalty(p, sites=[SITES[1]])))(params)
    assert slopes_of(grads) == [0, -1, 0]
    with pytest.raises(CollapseError, match="no sites"):
        linearity_penalty({"kernel": jnp.ones(2)})
    with pytest.raises(ValueError, match="penalty is 'l3', must be 'l1' or 'l2'"):
        linearity_penalty(params, penalty="l3")


def test_any_tree_with_leaves_named_slope():
    class Point:
        pass

    nested = [{"slope": jnp.zeros(2)}, (jnp.ones(3), {"slope": jnp.ones(())})]
    np.testing.assert_allclose(linearity_penalty(nested, sites="*"), 2.0)
    state = add_linearity_penalty(1.0, sites=SiteSelection(last=1, where="*")).init(nested)
    assert [float(w) for w in jax.tree.leaves(state.weights)] == [0, 1]


def pulled(make, **selection):
    """Returns the sites, by index, that one of the four works on."""
    params = tree(0.0, 0.0, 0.0)
    if make is linearity_penalty:
        moved = jax.grad(lambda p: linearity_penalty(p, **selection))(params)
    else:
        tx, zero = make(**selection), jax.tree.map(jnp.zeros_like, params)
        moved, _ = tx.update(zero, tx.init(params), params)
    return [i for i, slope in enumerate(slopes_of(moved)) if slope]


@pytest.mark.parametrize(
    "make",
    [
        linearity_penalty,
        partial(add_linearity_penalty, 0.1),
        partial(proximal_linearity_penalty, 0.1, 0.1),
        partial(with_linearity_penalty, optax.sgd(0.1), strength=0.1),
    ],
    ids=[
        "linearity_penalty",
        "add_linearity_penalty",
        "proximal_linearity_penalty",
        "with_linearity_penalty",
    ],
)
@pytest.mark.parametrize(
    ("selection", "sites"),
    [
        ({}, [0, 1, 2]),
        ({"sites": SiteSelection(last=1)}, [2]),
        ({"sites": SiteSelection(last=0.67)}, [1, 2]),
        ({"sites": "block_2/*"}, [1]),
        ({"sites": [SITES[2], SITES[0]]}, [0, 2]),
        ({"weights": [1.0, 0.0, 1.0]}, [0, 2]),
        ({"weights": {"block_1*": 0.0}}, [0, 1]),
        ({"sites": SiteSelection(where="block_[02]/*", last=1), "weights": [5.0]}, [1]),
    ],
)
def test_all_four_take_the_same_selection(make, selection, sites):
    assert pulled(make, **selection) == sites


@pytest.mark.parametrize(
    "make",
    [
        linearity_penalty,
        partial(add_linearity_penalty, 0.1),
        partial(proximal_linearity_penalty, 0.1, 0.1),
        partial(with_linearity_penalty, optax.sgd(0.1), strength=0.1),
        partial(anneal_slopes, optax.constant_schedule(1.0)),
    ],
    ids=["linearity_penalty", "add", "shrink", "with_linearity_penalty", "anneal_slopes"],
)
def test_last_and_weights_count_in_the_order_that_is_given(make):
    """Of encoder and decoder the decoder is the last, and names cannot tell."""
    params = {name: {"act_0": {"slope": jnp.float32(0.5)}} for name in ("decoder", "encoder")}
    order = ["encoder/act_0", "decoder/act_0"]

    def moved(**selection):
        if make is linearity_penalty:
            change = jax.grad(lambda p: -linearity_penalty(p, **selection))(params)
        else:
            tx, zero = make(**selection), jax.tree.map(jnp.zeros_like, params)
            tx.init(params)  # an order that is an iterator lasts
            change, _ = tx.update(zero, tx.init(params), params)
        return {name: abs(float(change[name]["act_0"]["slope"])) for name in params}

    with pytest.raises(CollapseError, match="names do not show whether .* Pass order="):
        moved(sites=SiteSelection(last=1))
    one = moved(sites=SiteSelection(last=1, order=iter(order)))
    assert one["decoder"] > 0 == one["encoder"]
    if getattr(make, "func", make) is not anneal_slopes:
        with pytest.raises(CollapseError, match="a list of weights needs the forward order"):
            moved(weights=[1.0, 5.0])
        both = moved(weights=[1.0, 5.0], sites=SiteSelection(order=order))
        np.testing.assert_allclose(both["decoder"], 5 * both["encoder"], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_slopes_are_refused_or_arrive(dtype):
    params = tree(0.0, 0.0, 0.0, dtype=dtype)
    with pytest.raises(CollapseError, match="got a slope in b?float16, expected"):
        add_linearity_penalty(0.1).init(params)
    np.testing.assert_allclose(linearity_penalty(params), 3.0)
    annealed = anneal_slopes(optax.linear_schedule(0.0, 1.0, 300))
    for tx in (annealed, proximal_linearity_penalty(0.2, 0.02)):

        def step(carry, _, tx=tx):
            params, state = carry
            zero = jax.tree.map(jnp.zeros_like, params)
            updates, state = tx.update(zero, state, params)
            return (optax.apply_updates(params, updates), state), None

        end, _ = jax.lax.scan(step, (params, tx.init(params)), length=300)[0]
        assert slopes_of(end) == [1, 1, 1]


def test_add_is_the_gradient_of_the_loss_term():
    params = tree(0.0, 0.5, 1.25)
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = add_linearity_penalty(3.0, weights=[1, 2, 4])
    updates, _ = tx.update(zero, tx.init(params), params)
    grads = jax.grad(lambda p: 3 * linearity_penalty(p, weights=[1, 2, 4]))(params)
    for got, want in zip(jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(got, want)


def test_where_in_a_chain_the_gradient_goes():
    """After the rescaling the gap shrinks by 1 − 2 η λ a step; elsewhere it does not."""
    rate, steps = 0.1, 10

    def gap(*chain):
        tx, params = optax.chain(*chain), {"slope": jnp.zeros(())}
        state = tx.init(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
            for _ in range(steps):
                updates, state = tx.update({"slope": jnp.zeros(())}, state, params)
                params = optax.apply_updates(params, updates)
        return 1 - float(params["slope"])

    adam, down = optax.scale_by_adam(), optax.scale_by_learning_rate(rate)
    for strength in (0.1, 1.0):
        add = add_linearity_penalty(strength)
        np.testing.assert_allclose(gap(adam, add, down), (1 - 2 * rate * strength) ** steps, 1e-5)
        assert gap(adam, down, add) > 1.5, "after the learning rate it pushes away"
    before = [gap(add_linearity_penalty(strength), adam, down) for strength in (0.1, 1.0)]
    np.testing.assert_allclose(*before, rtol=1e-3)  # Adam has normalised the strength away


def test_a_schedule_counts_the_steps():
    params = tree(0.0, 0.0, 0.0)
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = add_linearity_penalty(lambda step: jnp.where(step < 2, 0.0, 1.0))
    state = tx.init(params)
    pulls = []
    for _ in range(3):
        updates, state = tx.update(zero, state, params)
        pulls.append(slopes_of(updates)[0])
    assert pulls == [0, 0, -2]


@given(st.floats(-2, 3), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_the_proximal_step_minimises_its_objective(slope, rate, strength):
    """Of all points near it, the step ends at the least of ½(α'−α)² + η λ |1−α'|."""
    params = {"slope": jnp.float32(slope)}
    tx = proximal_linearity_penalty(rate, strength)
    zero = {"slope": jnp.float32(0)}
    updates, _ = tx.update(zero, tx.init(params), params)
    end = float(optax.apply_updates(params, updates)["slope"])
    objective = lambda a: 0.5 * (a - slope) ** 2 + rate * strength * abs(1 - a)
    nearby = end + np.linspace(-0.1, 0.1, 21)
    assert objective(end) <= min(objective(a) for a in nearby) + 1e-6


def test_l1_arrives_exactly_and_never_passes():
    params = tree(0.0, 0.93, 1.07)
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = proximal_linearity_penalty(1.0, 0.1)
    state, seen = tx.init(params), []
    for _ in range(12):
        updates, state = tx.update(zero, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(slopes_of(params))
    assert seen[0][1:] == [1.0, 1.0]
    assert seen[-1] == [1.0, 1.0, 1.0]
    assert max(s[0] for s in seen) == 1.0


def test_l2_is_the_implicit_step_which_never_overshoots():
    params = tree(0.0, 0.5, 2.0)
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = proximal_linearity_penalty(10.0, 10.0, penalty="l2")  # an explicit step would jump to 200
    updates, _ = tx.update(zero, tx.init(params), params)
    gaps = 1 - np.array(slopes_of(optax.apply_updates(params, updates)))
    np.testing.assert_allclose(gaps, np.array([1, 0.5, -1]) / 201, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: add_linearity_penalty(1.0), lambda: proximal_linearity_penalty(0.1, 0.1)]
)
def test_params_are_demanded(make):
    tx = make()
    with pytest.raises(ValueError, match="needs `params`: call tx.update"):
        tx.update(tree(0, 0, 0), tx.init(tree(0, 0, 0)))


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_strengths_and_rates_are_checked(bad):
    with pytest.raises(ValueError, match="strength is .*, must be finite and at least 0"):
        add_linearity_penalty(bad)
    with pytest.raises(ValueError, match="slope_learning_rate is .*, must be finite"):
        proximal_linearity_penalty(bad, 1.0)


def test_a_selection_that_names_nothing_is_an_error_at_init():
    tx = add_linearity_penalty(1.0, sites="encoder/*")
    with pytest.raises(CollapseError, match="'encoder/.*' matches no site"):
        tx.init(tree(0, 0, 0))


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("rate", [0.1, optax.linear_schedule(0.2, 0.01, 40)])
@pytest.mark.parametrize("gap", [0.5, 0.05])
def test_strength_for_gap_gives_that_gap(penalty, rate, gap):
    strength = strength_for_gap(gap, rate, 40, penalty)
    tx = proximal_linearity_penalty(rate, strength, penalty=penalty)
    params = {"slope": jnp.zeros(())}

    def step(carry, _):
        params, state = carry
        updates, state = tx.update({"slope": jnp.zeros(())}, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=40)
    np.testing.assert_allclose(1 - params["slope"], gap, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.1, 10), r"gap is 1.0, must be in \[0, 1\)"),
        ((0.0, 0.1, 10, "l2"), r"gap is 0.0, must be in \(0, 1\): an L2 penalty never"),
        ((0.1, 0.1, 0), "steps is 0, must be at least 1"),
        ((0.1, 0.0, 10), "learning_rate must be finite"),
        ((0.1, 0.1, 10, "l0"), "penalty is 'l0'"),
    ],
)
def test_strength_for_gap_checks(arguments, message):
    with pytest.raises(ValueError, match=message):
        strength_for_gap(*arguments)


def test_too_few_steps_warn_at_init():
    params = tree(0.0, 0.0, 0.99)
    short = proximal_linearity_penalty(0.1, 0.1, steps=99)
    with pytest.warns(UserWarning, match="99 steps .* cannot bring 2 of 3 slopes to 1.*gap 0.010"):
        short.init(params)
    with pytest.warns(UserWarning, match="99 steps .* cannot bring 2 of 3 slopes to 1"):
        with_linearity_penalty(
            optax.sgd(1.0), strength=0.1, slope_learning_rate=0.1, steps=99
        ).init(params)
    never = proximal_linearity_penalty(0.1, optax.constant_schedule(0.1), penalty="l2", steps=99)
    with pytest.warns(UserWarning, match="cannot bring 2 of 3 slopes"):
        never.init(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proximal_linearity_penalty(0.1, 0.1, steps=101).init(params)
        proximal_linearity_penalty(0.1, 0.1, steps=2, sites=[SITES[2]]).init(params)
        jax.jit(short.init)(params)  # traced slopes cannot be looked at
