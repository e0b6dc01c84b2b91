"""Random functions Dense → steps → activation → steps → Dense, against their identity network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.transform.analysis.reasons import Cause, Reason
from tests.lcjax.transform.test_straight_path import KEEP, SIGMAS, P, X, close, down, norm, up

STEPS = {
    "scale": lambda p, z: 0.3 * z,
    "scale after": lambda p, z: z * np.sqrt(2),
    "divide": lambda p, z: z / 1.7,
    "half": lambda p, z: z / 2,
    "negate": lambda p, z: -z,
    "add one": lambda p, z: z + 1,
    "from one": lambda p, z: 1 - z,
    "subtract": lambda p, z: z - 0.2,
    "bias": lambda p, z: z + p["b"],
    "bias first": lambda p, z: p["b"] - z,
    "learned scalar": lambda p, z: z * p["c"],
    "scale by unit": lambda p, z: p["s"] * z,
    "divide by unit": lambda p, z: z / (1 + p["var"]),
    "norm": norm,
    "mask": lambda p, z: jnp.where(KEEP, z, 0.0),
    "axes": lambda p, z: z.swapaxes(0, 1).swapaxes(0, 1),
    "an axis more": lambda p, z: (z[..., None] * 0.9)[..., 0],
    "jit": lambda p, z: jax.jit(lambda z: z * 0.4 + 0.1)(z),
    "remat": lambda p, z: jax.checkpoint(lambda p, z: p["s"] * z)(p, z),
    "name": lambda p, z: jax.ad_checkpoint.checkpoint_name(z, "hidden"),
}
TOO = {  # which do not fold
    "positions": lambda p, z: z + p["pos"],
    "scale by position": lambda p, z: p["pos"][:, :1] * z,
    "mask by position": lambda p, z: jnp.where(p["pos"] > 0, z, 0.0),
}


def chained(names, table=STEPS):
    def apply(p, z):
        for name in names:
            z = table[name](p, z)
        return z

    return apply


def draw(seed):
    """Returns a random function of an activation, params and inputs, and its activation."""
    rng = np.random.default_rng(seed)
    some = lambda: chained(rng.choice(list(STEPS), rng.integers(0, 4)))
    before, after, inner = some(), some(), some()
    act = SIGMAS[rng.choice(list(SIGMAS))]
    gated, wrap = rng.random() < 0.3, rng.choice(["", "jit", "remat", "remat of half"])

    def first(p, x):
        return before(p, up(p, x))

    if wrap == "remat of half":
        first = jax.checkpoint(first)

    def form(a, p, x):
        h = first(p, x)
        h = a(inner(p, x @ p["g"])) * h if gated else a(h)
        return down(p, after(p, h))

    if wrap == "jit":
        return jax.jit(form, static_argnums=0), act, gated
    if wrap == "remat":
        return lambda a, p, x: jax.checkpoint(lambda p, x: form(a, p, x))(p, x), act, gated
    return form, act, gated


@pytest.mark.parametrize(
    "seed", [pytest.param(i, marks=() if i < 8 else pytest.mark.slow) for i in range(60)]
)
def test_random_steps_around_activation(seed):
    form, act, gated = draw(seed)
    fn = lambda p, x: form(act, p, x)
    with jax.enable_x64(True):
        p, x = jax.tree.map(jnp.asarray, P), jnp.asarray(X)
        f = lcjax.collapsible(fn)
        tree = f.init(p, x)
        assert tuple(tree["slopes"]) == ("u",)
        linear = tree | {"slopes": jax.tree.map(jnp.ones_like, tree["slopes"])}
        compact, _ = f.trace(linear, x).collapse()
        identity = jnp.ones_like if gated else lambda z: z
        want, straight = fn(p, x), form(identity, p, x)
        close(f(tree, x), want, 0)
        for each in jax.jit(lambda trees: [f(tree, x) for tree in trees])([linear, compact]):
            close(each, straight, 1e-12)


@pytest.mark.parametrize("name", TOO)
@pytest.mark.parametrize("where", ["before", "after"])
def test_random_steps_that_differ_by_token_are_rejected(name, where):
    rng = np.random.default_rng(len(name))
    step, some = TOO[name], chained(rng.choice(list(STEPS), 2))

    def fn(p, x):
        z = some(p, up(p, x))
        h = jax.nn.relu(step(p, z) if where == "before" else z)
        return down(p, some(p, step(p, h) if where == "after" else h))

    ((path, reason),) = lcjax.collapsible(fn).trace(P, X).explain().rejected
    op = {"positions": "add", "scale by position": "mul", "mask by position": "select_n"}[name]
    assert (path, reason) == ("u", Reason(Cause.BY_TOKEN, op=op))
