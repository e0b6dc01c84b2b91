"""Every optimizer of optax and optax.contrib inside `with_linearity_penalty`."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from lcjax import CollapseError, carry_opt_state, collapse, with_linearity_penalty

pytestmark = pytest.mark.promotes

RATE, STEPS, NAN_AT = 1e-3, 300, 10
MODULES = {"optax": optax, "contrib": contrib}
# What an optimizer needs besides a learning rate.
FIELDS = {
    "noisy_sgd": {"eta": 1e-9, "key": 0},
    "optimistic_adam": {"optimism": 0.1},
    "dpsgd": {"l2_norm_clip": 1.0, "noise_multiplier": 0.0, "seed": 0},
    "schedule_free": {"base_optimizer": optax.sgd(RATE)},
    "muon": {"weight_decay": 0.0},
}
DEFAULT_RATE = {"dog", "dowg", "polyak_sgd", "lbfgs"}
STEPS_OF = {"cocob": 40}  # its bets grow exponentially where gradients keep their sign
# GaLore's state starts afresh as a whole, with another projection; optimistic_adam (deprecated)
# amplifies the growth of its first moment.
JUMP_OF = {"galore": 4.0, "optimistic_adam": 3.0}
REFUSED = {
    "lbfgs": "train with a first-order optimizer",
    "sm3": "use optax.adafactor",
    "dpsgd": r"put contrib.differentially_private_aggregate\(...\) before",
}
FAST = {"adam", "adafactor", "acprop", "schedule_free_sgd"}


def is_optimizer(module, name):
    fn = getattr(module, name)
    if not (inspect.isfunction(fn) or isinstance(fn, partial)) or name.startswith(
        ("_", "scale_by_")
    ):
        return False
    return bool({"learning_rate", "max_learning_rate"} & inspect.signature(fn).parameters.keys())


NAMES = {
    name: module
    for module in MODULES.values()
    for name in dir(module)
    if is_optimizer(module, name)
}
RUN = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in sorted(NAMES.keys() - REFUSED.keys())
]


def make(name):
    fn = getattr(NAMES[name], name)
    rate = {} if name in DEFAULT_RATE else {"learning_rate": RATE}
    fields = dict(FIELDS.get(name, {}))
    if "key" in fields:
        fields["key"] = jax.random.key(0)
    return fn(**rate, **fields)


def params_of():
    return {
        "act_0": {"slope": jnp.float32(0.5)},
        "dense_0": {"kernel": jnp.eye(4)},
        "dense_1": {"kernel": jnp.cos(jnp.arange(16.0)).reshape(4, 4)},
    }


@partial(jax.jit, static_argnums=(0, 3))
def trained(tx, params, state, steps, nan_at):
    """Returns params, state, and by step the slope and the size of the last kernel's update."""

    def step(carry, at):
        params, state = carry
        size = jnp.where(at == nan_at, jnp.nan, 1.0)

        def gradient(p):
            noise = 0.3 * jnp.sin(7.0 * at + 3.0 * jnp.arange(p.size)).reshape(p.shape)
            return size * (1 + noise) if p.ndim else size * jnp.zeros(())

        grads = jax.tree.map(gradient, params)
        extra = {"value": 1e-3 * optax.tree.norm(grads, squared=True)}
        extra["obj_fn"] = lambda p: sum((leaf**2).sum() for leaf in jax.tree.leaves(p))
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        moved = jnp.sqrt((updates["dense_1"]["kernel"] ** 2).mean())
        return (params, state), (params["act_0"]["slope"] if "act_0" in params else 0.0, moved)

    return jax.lax.scan(step, (params, state), jnp.arange(steps))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*optimistic_adam:DeprecationWarning")
@pytest.mark.parametrize("name", RUN)
def test_a_skipped_step_and_a_collapse_leave_no_trace(name):
    """Slopes stay on a NaN step as weights do; the fused kernel's first updates do not jump."""
    inner = optax.apply_if_finite(make(name), 5)
    tx = with_linearity_penalty(inner, strength=0.1, slope_learning_rate=0.2)
    start = params_of()
    (params, state), (slopes, sizes) = trained(
        tx, start, tx.init(start), STEPS_OF.get(name, STEPS), NAN_AT
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert slopes[NAN_AT] == slopes[NAN_AT - 1] < slopes[NAN_AT + 1] <= slopes[-1] == 1
    assert sizes[NAN_AT] == 0
    if name.startswith("schedule_free"):
        kept = contrib.schedule_free_eval_params(state.inner.inner_state, params)
        np.testing.assert_allclose(kept["act_0"]["slope"], 1.0, atol=1e-6)
    compact, report = collapse(params)
    carried = carry_opt_state(tx, state, params, compact, report)
    (_, _), (_, after) = trained(tx, compact, carried, 20, -1)
    assert np.isfinite(after).all()
    assert after.max() <= JUMP_OF.get(name, 1.5) * sizes[-20:].max()


@pytest.mark.filterwarnings("ignore:.*seed.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_go_inside_is_refused_with_a_remedy(name):
    with pytest.raises(CollapseError, match=f"inner: got optax.*Instead, {REFUSED[name]}"):
        with_linearity_penalty(make(name), strength=0.1).init(params_of())


WRAPPED = {
    "backtracking": (
        lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
        "use a learning rate",
    ),
    "zoom": (
        lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(5)),
        "use a learning rate",
    ),
    "sam": (
        lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.05)),
        r"put it around, optax.contrib.sam\(lcjax",
    ),
    "conditionally_mask": (
        lambda: optax.conditionally_mask(optax.sgd(0.1), lambda step: step > 1),
        r"put it around, optax.conditionally_mask\(lcjax",
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_that_hide_what_they_do_are_refused_with_a_remedy(name):
    inner, remedy = WRAPPED[name]
    with pytest.raises(CollapseError, match=f"inner: got .*Instead, {remedy}"):
        with_linearity_penalty(optax.chain(optax.clip(1.0), inner()), strength=0.1).init(
            params_of()
        )


def test_lookahead_goes_around_and_not_inside():
    lookahead = partial(optax.lookahead, sync_period=2, slow_step_size=0.5)
    pair = optax.LookaheadParams.init_synced(params_of())
    with pytest.raises(CollapseError, match="got optax.LookaheadParams.*Put lookahead around"):
        with_linearity_penalty(lookahead(optax.sgd(0.1)), strength=0.1).init(pair)
    tx = lookahead(with_linearity_penalty(optax.sgd(0.1), strength=0.1, sites=["act_0"]))
    state, zero = tx.init(pair), jax.tree.map(jnp.zeros_like, params_of())
    updates, _ = tx.update(zero, state, pair)
    np.testing.assert_allclose(updates.fast["act_0"]["slope"], 0.02, rtol=1e-5)


def test_sam_goes_around():
    tx = contrib.sam(
        with_linearity_penalty(optax.sgd(0.1), strength=0.1), optax.sgd(0.05), sync_period=2
    )
    params, zero = params_of(), jax.tree.map(jnp.zeros_like, params_of())
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(zero, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["act_0"]["slope"], 0.52, rtol=1e-5)


def test_mechanize_inside_scales_weights_alone():
    tx = with_linearity_penalty(contrib.mechanize(optax.sgd(0.1)), strength=0.1)
    params = params_of()
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["act_0"]["slope"], 0.02, rtol=1e-5)


def test_loss_functions_run_with_the_true_slopes():
    """Hutchinson's estimate of sophia sees the slope that the params have, not the hidden 0."""
    params, seen = params_of(), []

    def loss(params):
        jax.debug.callback(lambda slope: seen.append(float(slope)), params["act_0"]["slope"])
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(params))

    tx = with_linearity_penalty(contrib.sophia(RATE), strength=0.1)
    jax.jit(partial(tx.update, obj_fn=loss))(params, tx.init(params), params)
    jax.effects_barrier()
    assert set(seen) == {0.5}
