import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcjax import SiteSelection, with_linearity_penalty

pytestmark = pytest.mark.promotes

STRENGTH, RATE = 0.05, 0.5


def params_of(*slopes):
    sites = {f"act_{i}": {"slope": jnp.float32(s)} for i, s in enumerate(slopes)}
    return sites | {"dense_0": {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3)}}


def gradients(params, *slopes):
    grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
    return grads | {f"act_{i}": {"slope": jnp.float32(g)} for i, g in enumerate(slopes)}


def train(tx, params, slope_gradients, steps):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(gradients(params, *slope_gradients), state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])
    return run((params, tx.init(params)))


INNERS = {
    "adam 1e-2": optax.adam(1e-2),
    "adam 2e-5": optax.adam(2e-5),
    "adamw with decay": optax.adamw(1e-3, weight_decay=0.5),
    "sgd": optax.sgd(1e-2, momentum=0.9),
    "lion": optax.lion(1e-4),
    "clipped": optax.chain(optax.clip_by_global_norm(0.01), optax.adam(1e-3)),
    "schedule": optax.adam(optax.cosine_decay_schedule(1e-2, 100)),
}


@pytest.mark.parametrize("name", INNERS)
def test_the_rest_point_is_one_exactly_where_the_gradient_is_below_the_strength(name):
    """Slopes 0 to 2 have |g| < λ and end at exactly 1; 3 and 4 have |g| > λ and do not."""
    tx = with_linearity_penalty(INNERS[name], strength=STRENGTH, slope_learning_rate=RATE)
    below, above = 0.9 * STRENGTH, 1.1 * STRENGTH
    start = params_of(0.0, 0.3, 2.0, 0.0, 1.0)
    params, _ = train(tx, start, (below, -below, 0.0, above, -above), 1000)
    slopes = [float(params[f"act_{i}"]["slope"]) for i in range(5)]
    assert slopes[:3] == [1.0, 1.0, 1.0]
    assert slopes[3] < 0 and slopes[4] > 1.5


@pytest.mark.parametrize(
    "make", [optax.adam, optax.sgd, lambda rate: optax.adamw(rate, weight_decay=0.1)]
)
def test_the_rest_point_does_not_move_with_the_inner_learning_rate(make):
    def slopes(rate):
        tx = with_linearity_penalty(make(rate), strength=STRENGTH, slope_learning_rate=RATE)
        below, above = 0.95 * STRENGTH, 1.05 * STRENGTH
        start = params_of(0.0, 0.0, 1.0, 1.0)
        params, _ = train(tx, start, (below, above, -below, -above), 1000)
        return jnp.stack([params[f"act_{i}"]["slope"] for i in range(4)])

    ends = jax.vmap(slopes)(jnp.array([1e-2, 1e-3, 2e-5]))
    assert (ends[:, [0, 2]] == 1).all()
    assert (ends[:, 1] < 0).all() and (ends[:, 3] > 1.2).all()


def test_the_inner_optimizer_runs_once_and_on_the_whole_tree():
    calls = []

    def update(updates, state, params=None):
        calls.append((updates, params))
        return updates, state

    inner = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    tx, params = with_linearity_penalty(inner, strength=STRENGTH), params_of(0.25, 0.5)
    grads = gradients(params, 0.1, 0.2)
    tx.update(grads, tx.init(params), params)
    ((seen, shown),) = calls
    chex.assert_trees_all_equal(seen, grads)
    hidden = params | {f"act_{i}": {"slope": jnp.zeros(())} for i in range(2)}
    chex.assert_trees_all_equal(shown, hidden)


def test_clipping_around_it_and_inside_it_is_by_the_whole_trees_norm():
    clip, norm = optax.clip_by_global_norm(0.5), 0.5
    params, slope_gradients = params_of(0.0), (3.0,)
    grads = gradients(params, *slope_gradients)
    factor = norm / float(optax.tree.norm(grads))
    want = -0.1 * factor * grads["dense_0"]["kernel"]
    step = 0.2 * 0.1 * 3.0  # η (1 − μ) g
    for tx, slope in (
        (optax.chain(clip, with_linearity_penalty(optax.sgd(0.1), strength=0.0)), -factor * step),
        (with_linearity_penalty(optax.chain(clip, optax.sgd(0.1)), strength=0.0), -step),
    ):
        updates, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_allclose(updates["dense_0"]["kernel"], want, rtol=1e-5)
        np.testing.assert_allclose(updates["act_0"]["slope"], slope, rtol=1e-5)


def test_hyperparameters_injected_inside_can_be_set_between_steps():
    inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    tx, params = with_linearity_penalty(inner, strength=STRENGTH), params_of(0.0)
    state, grads = tx.init(params), gradients(params, 0.0)
    state.inner.hyperparams["learning_rate"] = jnp.float32(0.5)
    updates, _ = tx.update(grads, state, params)
    np.testing.assert_allclose(
        updates["dense_0"]["kernel"], -0.5 * grads["dense_0"]["kernel"], rtol=1e-6
    )


def test_extra_arguments_pass_through_a_chain_around_it():
    seen = []

    def update(updates, state, params=None, *, value, **extra):
        seen.append((value, extra))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), with_linearity_penalty(inner, strength=STRENGTH)
    )
    params = params_of(0.0)
    tx.update(gradients(params, 0.0), tx.init(params), params, value=3.0, loss_fn="kept")
    assert seen == [(3.0, {"loss_fn": "kept"})]


def test_weights_scale_the_price_of_a_site():
    tx = with_linearity_penalty(
        optax.sgd(0.1), strength=0.1, slope_learning_rate=RATE, weights=[2, 0.5]
    )
    params, _ = train(tx, params_of(0.0, 0.0), (0.15, 0.15), 500)
    assert float(params["act_0"]["slope"]) == 1.0
    assert float(params["act_1"]["slope"]) < 0


def test_l2_rests_at_the_gap_of_its_formula():
    tx = with_linearity_penalty(
        optax.sgd(0.1), strength=0.5, penalty="l2", slope_learning_rate=RATE
    )
    params, _ = train(tx, params_of(0.0), (0.2,), 300)
    np.testing.assert_allclose(1 - params["act_0"]["slope"], 0.2 / (2 * 0.5), rtol=1e-3)


@pytest.mark.parametrize(
    "inner",
    [
        optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)),
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
        optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2, weight_decay=0.1)),
        optax.MultiSteps(optax.adam(1e-2), 3),
        optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.1, 0, 20)),
        optax.apply_if_finite(optax.adam(1e-2), 3),
    ],
    ids=["clip", "decay", "clip+adamw", "MultiSteps", "inject_hyperparams", "apply_if_finite"],
)
def test_weights_move_as_they_do_without_it(inner):
    params, slope_gradients = params_of(0.0, 0.5), (0.7, -0.2)
    with_it, _ = train(with_linearity_penalty(inner, strength=STRENGTH), params, slope_gradients, 7)
    hidden = params | {f"act_{i}": {"slope": jnp.zeros(())} for i in range(2)}
    without, _ = train(inner, hidden, slope_gradients, 7)
    np.testing.assert_allclose(
        with_it["dense_0"]["kernel"], without["dense_0"]["kernel"], rtol=1e-6
    )


def test_decay_never_touches_slopes():
    tx = with_linearity_penalty(optax.adamw(1.0, weight_decay=10.0), strength=0.0)
    params, _ = train(tx, params_of(1.0, 0.5), (0.0, 0.0), 20)
    assert float(params["act_0"]["slope"]) == 1.0
    assert float(params["act_1"]["slope"]) == 0.5


@pytest.mark.slow
def test_multi_steps_around_and_inside_moves_slopes_when_it_moves_weights():
    clip, plain = optax.clip(1.0), with_linearity_penalty(optax.sgd(0.1), strength=STRENGTH)
    around = optax.MultiSteps(plain, 4)
    steps = optax.MultiSteps(optax.sgd(0.1), 4)
    chained = optax.chain(clip, steps.gradient_transformation())
    deeper = optax.masked(optax.chain(optax.chain(clip, chained), clip), True)
    for tx in (
        around,
        optax.chain(clip, around.gradient_transformation()),
        optax.MultiSteps(optax.chain(clip, plain), 4),
        with_linearity_penalty(steps, strength=STRENGTH),
        with_linearity_penalty(chained, strength=STRENGTH),
        with_linearity_penalty(deeper, strength=STRENGTH),
    ):
        params = params_of(0.0)
        held, _ = train(tx, params, (0.01,), 3)
        np.testing.assert_array_equal(held["act_0"]["slope"], 0.0)
        np.testing.assert_array_equal(held["dense_0"]["kernel"], params["dense_0"]["kernel"])
        moved, _ = train(tx, params, (0.01,), 4)
        assert float(moved["act_0"]["slope"]) > 0
    once, _ = train(with_linearity_penalty(optax.sgd(0.1), strength=STRENGTH), params, (0.01,), 1)
    around_moved, _ = train(around, params, (0.01,), 4)
    np.testing.assert_allclose(once["act_0"]["slope"], around_moved["act_0"]["slope"])


def test_inject_hyperparams_around_sees_and_sets_the_strength():
    make = optax.inject_hyperparams(with_linearity_penalty, static_args="steps")
    tx = make(
        inner=optax.adam(1e-2),
        strength=optax.linear_schedule(0.0, 0.1, 2),
        sites=SiteSelection(last=1),
    )
    params = params_of(0.0, 0.0)
    state = tx.init(params)
    seen = []
    for _ in range(3):
        updates, state = tx.update(gradients(params, 0.0, 0.0), state, params)
        seen.append(round(float(state.hyperparams["strength"]), 6))
        params = optax.apply_updates(params, updates)
    assert seen == [0.0, 0.05, 0.1]
    np.testing.assert_allclose(params["act_1"]["slope"], 0.2 * 0.15, rtol=1e-5)
    assert float(params["act_0"]["slope"]) == 0.0


def test_extra_arguments_reach_the_inner_optimizer():
    def update(updates, state, params=None, *, value, **extra):
        del params, extra
        return jax.tree.map(lambda u: u * value, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
    tx = with_linearity_penalty(inner, strength=STRENGTH)
    params = params_of(0.0)
    updates, _ = tx.update(gradients(params, 0.0), tx.init(params), params, value=3.0)
    want = 3 * gradients(params, 0.0)["dense_0"]["kernel"]
    np.testing.assert_allclose(updates["dense_0"]["kernel"], want)


def test_schedules_of_rate_and_strength_follow_the_count():
    off_then_on = optax.piecewise_constant_schedule(0.0, {})
    tx = with_linearity_penalty(
        optax.sgd(0.1),
        strength=lambda step: jnp.where(step < 3, 0.0, 1.0),
        slope_learning_rate=lambda step: 0.1 / (1 + step),
    )
    params, state = train(tx, params_of(0.0), (0.0,), 5)
    np.testing.assert_allclose(params["act_0"]["slope"], 0.1 / 4 + 0.1 / 5, rtol=1e-5)
    assert int(state.shrink.count) == 5 and off_then_on(0) == 0


def test_sites_that_are_not_selected_stay():
    tx = with_linearity_penalty(optax.adam(0.1), strength=STRENGTH, sites=SiteSelection(last=1))
    params, _ = train(tx, params_of(0.25, 0.0), (5.0, 0.0), 50)
    assert float(params["act_0"]["slope"]) == 0.25
    assert float(params["act_1"]["slope"]) > 0


def test_stacked_slopes_arrive_one_by_one():
    params = {"act_0": {"slope": jnp.zeros(3)}, "dense_0": {"kernel": jnp.ones((3, 2, 2))}}
    tx = with_linearity_penalty(optax.sgd(0.1), strength=STRENGTH, slope_learning_rate=RATE)
    grads = {"act_0": {"slope": jnp.array([0.0, 0.01, 0.2])}, "dense_0": params["dense_0"]}
    state = tx.init(params)
    for _ in range(100):
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    slopes = params["act_0"]["slope"]
    assert slopes[:2].tolist() == [1.0, 1.0] and float(slopes[2]) < 0


NAN = float("nan")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "seen", "same_as"),
    [
        (optax.apply_if_finite(optax.sgd(0.1), 5), [0.01, NAN, 0.01], [0.01, 0.01]),
        (optax.chain(optax.zero_nans(), optax.sgd(0.1)), [0.01, NAN, 0.01], [0.01, 0.0, 0.01]),
        (
            optax.MultiSteps(optax.sgd(0.1), 1, should_skip_update_fn=optax.skip_not_finite),
            [0.01, NAN, 0.01],
            [0.01, 0.01],
        ),
        (
            optax.chain(
                optax.clip(1.0), optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
            ),
            [0.01, 0.03, -0.02, 0.04],
            [0.02, 0.01],
        ),
        (optax.chain(optax.apply_every(2), optax.sgd(0.1)), [0.01, 0.03], [0.02]),
        (
            optax.apply_if_finite(optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(), 5),
            [0.01, NAN, 0.03, NAN, 0.02, 0.04],
            [0.02, 0.03],
        ),
    ],
    ids=["apply_if_finite", "zero_nans", "skip", "chain+MultiSteps", "apply_every", "nested"],
)
def test_slopes_skip_and_accumulate_as_weights_do(inner, seen, same_as):
    """The slope ends where plain steps with the gradients that weights saw take it."""

    def end(inner, values):
        tx, params = with_linearity_penalty(inner, strength=STRENGTH), params_of(0.5)
        state = tx.init(params)
        for value in values:
            grads = jax.tree.map(lambda p, value=value: jnp.full(p.shape, value), params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return float(params["act_0"]["slope"])

    np.testing.assert_allclose(end(inner, seen), end(optax.sgd(0.1), same_as), rtol=1e-6)


def test_one_huge_gradient_moves_a_slope_by_at_most_1():
    tx = with_linearity_penalty(optax.chain(optax.clip(1.0), optax.sgd(0.1)), strength=0.0)
    params = params_of(0.5)
    state, update = tx.init(params), jax.jit(tx.update)
    for size in (1e6, *[0.0] * 60):
        updates, state = update(gradients(params, size), state, params)
        params = optax.apply_updates(params, updates)
    assert -0.5 <= params["act_0"]["slope"] < 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_narrow_slopes_arrive_as_float32_ones_do(dtype, penalty):
    strength = 0.003 if penalty == "l1" else 0.05
    tx = with_linearity_penalty(optax.set_to_zero(), strength=strength, penalty=penalty)

    def end(dtype):
        def step(carry, _):
            params, state = carry
            zero = jax.tree.map(jnp.zeros_like, params)
            updates, state = tx.update(zero, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = {"act_0": {"slope": jnp.zeros((), dtype)}}
        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=2000)[0])
        params, _ = run((params, tx.init(params)))
        assert params["act_0"]["slope"].dtype == dtype
        return float(params["act_0"]["slope"])

    assert end(dtype) == float(jnp.asarray(end(jnp.float32), dtype)) == 1


def test_a_narrow_slope_that_is_set_by_hand_is_taken_as_it_is():
    tx = with_linearity_penalty(optax.sgd(0.1), strength=0.003)
    params = {"act_0": {"slope": jnp.bfloat16(0.25)}}
    state, zero = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    _, state = tx.update(zero, state, {"act_0": {"slope": jnp.bfloat16(0.75)}})
    np.testing.assert_allclose(state.shrink.slopes["act_0"]["slope"], 0.75 + 0.0006, rtol=1e-6)


def test_a_models_own_parameter_named_slope_trains_as_any_other():
    """Beside other leaves of its module, and under `model` in a collapsible function's tree."""
    one = {"line": {"slope": jnp.float32(5), "intercept": jnp.float32(2)}, **params_of(0.5)}
    function = {
        "model": {"slope": jnp.float32(5), "prelu": {"slope": jnp.ones(3)}},
        "slopes": {"up": {"slope": jnp.float32(0.5)}},
        "fused": {},
    }
    for params, own in ((one, "line"), (function, "model")):
        alone, tx = optax.adamw(0.1), with_linearity_penalty(optax.adamw(0.1), strength=0.1)
        grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
        updates, _ = tx.update(grads, tx.init(params), params)
        want, _ = alone.update(grads, alone.init(params), params)
        chex.assert_trees_all_close(updates[own], want[own], rtol=1e-6)


def test_a_slope_that_may_be_the_models_own_is_a_site_only_where_it_is_named():
    params = {"bend": {"slope": jnp.float32(0.5)}, "prelu": {"slope": jnp.float32(0.5)}}
    with pytest.raises(ValueError, match="bend/slope: got a leaf named `slope` that may be the"):
        with_linearity_penalty(optax.sgd(0.1), strength=0.1).init(params)
    tx = with_linearity_penalty(optax.sgd(0.1), strength=0.1, sites=iter(["bend"]))
    zero = jax.tree.map(jnp.zeros_like, params)
    grads = zero | {"prelu": {"slope": jnp.float32(1)}}
    for _ in range(2):  # the iterator is read once
        updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["prelu"]["slope"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["bend"]["slope"], 0.2 * 0.1, rtol=1e-5)


def test_with_linearity_penalty_accepts_injected_weights_and_rejects_traced_last():
    params = params_of(0.0, 0.0)
    make = optax.inject_hyperparams(with_linearity_penalty)
    tx = make(inner=optax.sgd(0.1), strength=0.1, weights=2.0)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zero, jax.jit(tx.init)(params), params)
    np.testing.assert_allclose(updates["act_0"]["slope"], 0.2 * 0.1 * 2, rtol=1e-5)
    alone = make(inner=optax.sgd(0.1), strength=0.1, sites=SiteSelection(last=1)).init(params)
    assert not bool(alone.inner_state.selected["act_0"]["slope"])
    with pytest.raises(TypeError, match="expected an int or a float.*Pass a Python number"):
        make(inner=optax.sgd(0.1), strength=0.1, sites=SiteSelection(last=jnp.int32(1))).init(
            params
        )


@pytest.mark.parametrize(
    "inner",
    [optax.MultiSteps(optax.sgd(0.1), 2), optax.contrib.schedule_free_sgd(0.1), optax.adam(0.1)],
    ids=["MultiSteps", "schedule_free", "adam"],
)
def test_params_and_state_can_be_donated(inner):
    tx, params = with_linearity_penalty(inner, strength=0.1), params_of(0.0)
    params |= {"act_1": {"slope": jnp.zeros((), jnp.bfloat16)}}
    step = jax.jit(lambda p, s: tx.update(jax.tree.map(jnp.ones_like, p), s, p), donate_argnums=1)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, tx.init(params)))]
    assert len(set(buffers)) == len(buffers)
    updates, _ = step(params, tx.init(params))
    assert float(params["act_0"]["slope"]) == 0 and jnp.isfinite(updates["act_0"]["slope"])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"momentum is 1.0, must be in \[0, 1\)"):
        with_linearity_penalty(optax.sgd(0.1), strength=0.1, momentum=1.0)
    with pytest.raises(ValueError, match="strength is -1"):
        with_linearity_penalty(optax.sgd(0.1), strength=-1)
    tx = with_linearity_penalty(optax.sgd(0.1), strength=0.1)
    with pytest.raises(ValueError, match="with_linearity_penalty needs `params`"):
        tx.update(params_of(0.0), tx.init(params_of(0.0)))
    with pytest.raises(ValueError, match="no sites"):
        tx.init({"dense_0": {"kernel": jnp.ones((2, 2))}})
