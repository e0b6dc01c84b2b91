"""At slope 1 a site is the identity and all else that the function does still counts.

Every form is held against the same network with its activation replaced by the identity, in
float64: constants and scalars next to an activation are linear steps; what does not fold exactly
is left alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from tests.helpers.functions import ACTIVATIONS

RNG = np.random.default_rng(0)
D, H, OUT = 5, 6, 3
P = {
    name: RNG.normal(size=shape) / np.sqrt(shape[0] if len(shape) > 1 else 1)
    for name, shape in dict(
        u=(D, H), g=(D, H), both=(D, 2 * H), v=(H, OUT), b=(H,), s=(H,), c=(), o=(OUT,)
    ).items()
}
P["var"] = RNG.uniform(0.5, 2, H)
P["pos"] = RNG.normal(size=(4, H))
X = RNG.normal(size=(2, 4, D))
KEEP = RNG.random(H) > 0.4
R2 = np.sqrt(2)


def up(p, x):
    return x @ p["u"]


def down(p, h):
    return h @ p["v"]


FORMS = {  # of an activation, params and inputs
    "scalar before": lambda a, p, x: down(p, a(0.1 * up(p, x))),
    "division before": lambda a, p, x: down(p, a(up(p, x) / np.sqrt(D))),
    "division by an array": lambda a, p, x: down(p, a(up(p, x) / jnp.full((), 3.0))),
    "scalar after": lambda a, p, x: down(p, a(up(p, x)) * R2),
    "scalar after, first": lambda a, p, x: down(p, 0.1 * a(up(p, x))),
    "division after": lambda a, p, x: down(p, a(up(p, x)) / 3.0),
    "NTK": lambda a, p, x: down(p, a(up(p, x) / np.sqrt(D)) * R2) / np.sqrt(H),
    "NTK with biases": lambda a, p, x: down(p, R2 * a(up(p, x) / 2.0 + p["b"])) + p["o"],
    "bias, then scalar": lambda a, p, x: down(p, a((up(p, x) + p["b"]) * 0.3)),
    "bias after": lambda a, p, x: down(p, a(up(p, x)) + p["b"]),
    "scalar and bias after": lambda a, p, x: down(p, 0.3 * a(up(p, x)) + p["b"]),
    "constant added": lambda a, p, x: down(p, a(up(p, x) + 1.0)),
    "constant subtracted after": lambda a, p, x: down(p, a(up(p, x)) - 0.7),
    "from a constant": lambda a, p, x: down(p, 1.0 - a(2.0 - up(p, x))),
    "negation before": lambda a, p, x: down(p, a(-up(p, x))),
    "negation after": lambda a, p, x: down(p, -a(up(p, x) * 0.5)),
    "param scalar before": lambda a, p, x: down(p, a(p["c"] * up(p, x))),
    "param scalar after": lambda a, p, x: down(p, a(up(p, x)) * p["c"] * 0.2),
    "scale by unit": lambda a, p, x: down(p, p["s"] * a(up(p, x) * p["s"])),
    "scaled twice": lambda a, p, x: down(p, a(3.0 * (0.1 * up(p, x) + p["b"]) / 0.7)),
    "norm before": lambda a, p, x: down(p, a(norm(p, up(p, x)))),
    "norm after": lambda a, p, x: down(p, norm(p, a(up(p, x) * 0.4)) * 2.0),
    "fixed mask by unit": lambda a, p, x: down(p, jnp.where(KEEP, a(up(p, x)), 0.0)),
    "fixed mask, other way": lambda a, p, x: down(p, a(jnp.where(KEEP, 0.0, up(p, x)))),
    "cast in between": lambda a, p, x: down(p, a((0.5 * up(p, x)).astype("float32")).astype(float)),
    "within jit": jax.jit(lambda a, p, x: down(p, R2 * a(up(p, x) / 2.0)), static_argnums=0),
    "a jitted scale": lambda a, p, x: down(p, a(jax.jit(lambda z: z / 2.0)(up(p, x)))),
    "within remat": lambda a, p, x: jax.checkpoint(lambda p, x: down(p, R2 * a(up(p, x) / 2.0)))(
        p, x
    ),
    "a remat of the first half": lambda a, p, x: down(
        p, R2 * a(jax.checkpoint(lambda p, x: up(p, x) / 2.0)(p, x))
    ),
    "within scan": lambda a, p, x: jax.lax.scan(
        lambda c, x: (c, down(p, R2 * a(up(p, x) / 2.0))), 0.0, x
    )[1],
}


def norm(p, z):
    return (z - p["b"]) / jnp.sqrt(p["var"] + 1e-5) * p["s"] + p["b"]


GATES = {  # of a gate's activation, its identity being 1
    "scalar on the value": lambda a, p, x: down(p, a(x @ p["g"]) * (0.3 * up(p, x))),
    "scalar on the gate": lambda a, p, x: down(p, 0.3 * a(x @ p["g"]) * up(p, x)),
    "scalar on the product": lambda a, p, x: down(p, 0.3 * (up(p, x) * a(x @ p["g"]))),
    "scale by unit on the gate": lambda a, p, x: down(p, up(p, x) * (p["s"] * -a(x @ p["g"]))),
    "scalar in the gate": lambda a, p, x: down(p, up(p, x) * a(x @ p["g"] / 3.0)),
    "bias on the value": lambda a, p, x: down(p, (up(p, x) + p["b"]) * 0.5 * a(x @ p["g"])),
    "one on the value": lambda a, p, x: down(p, (up(p, x) + 1) * a(x @ p["g"])),
    "split": lambda a, p, x: down(
        p, (lambda g, u: a(g / 2) * (u * 0.7) * R2)(*jnp.split(x @ p["both"], 2, -1))
    ),
    "bias on the product": lambda a, p, x: down(p, up(p, x) * a(x @ p["g"]) * 2.0 + p["b"]),
}
SIGMAS = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "selu": nn.selu,
    "silu by hand": lambda z: z * jax.nn.sigmoid(z),
}
ONES = jnp.ones_like


def close(got, want, tolerance=1e-13):
    assert got.dtype == want.dtype
    assert float(jnp.abs(got - want).max()) <= tolerance * max(1.0, float(jnp.abs(want).max()))


def _check(fn, straight, tolerance=1e-13):
    """Holds slope 0, slope 1 and the compact form against the function and its straight path."""
    with jax.enable_x64(True):
        f = lcjax.collapsible(fn)
        params = jax.tree.map(jnp.asarray, P)
        x = jnp.asarray(X)
        tree = f.init(params, x)
        assert len(tree["slopes"]) == 1
        bent = lambda slope: tree | {"slopes": jax.tree.map(lambda s: s + slope, tree["slopes"])}
        compact, _ = f.trace(bent(1.0), x).collapse()
        want, linear = fn(params, x), straight(params, x)
        got = jax.jit(lambda trees: [f(each, x) for each in trees])(
            [bent(0.0), bent(0.25), bent(1.0), compact]
        )
        wanted = (want, 0.25 * linear + 0.75 * want, linear, linear)
        for each, right in zip(got, wanted, strict=True):
            close(each, right, tolerance)
        return f, compact


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("sigma", ["relu"])
def test_constants_stay_in_straight_path(name, sigma):
    form, act = FORMS[name], SIGMAS[sigma]
    loose = 1e-6 if "cast" in name else 1e-13
    _check(lambda p, x: form(act, p, x), lambda p, x: form(lambda z: z, p, x), loose)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("sigma", [name for name in SIGMAS if name != "relu"])
def test_constants_stay_for_other_activations(name, sigma):
    test_constants_stay_in_straight_path(name, sigma)


@pytest.mark.parametrize("name", GATES)
def test_constants_of_gated_unit(name):
    form = GATES[name]
    _check(lambda p, x: form(nn.silu, p, x), lambda p, x: form(ONES, p, x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_constants_inside_activation(name):
    act = ACTIVATIONS[name]
    _check(lambda p, x: down(p, act(up(p, x))), lambda p, x: down(p, up(p, x)))


WRITTEN = {  # activations with a constant without which they would be none
    "gelu": lambda z: z * (1 + jax.lax.erf(z / R2)) / 2,
    "hard_swish": lambda z: z * jnp.clip(z + 3, 0, 6) / 6,
    "squareplus": lambda z: 0.5 * (z + jnp.sqrt(z * z + 4)),
    "relu": lambda z: (z + jnp.abs(z)) / 2,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_constants_of_written_out_activation(name):
    act = WRITTEN[name]
    _check(
        lambda p, x: down(p, act(up(p, x) * 0.5) * 3.0),
        lambda p, x: down(p, up(p, x) * 0.5 * 3.0),
    )


def test_constants_of_written_out_gate():
    hard_sigmoid = lambda z: jnp.clip(z + 3, 0, 6) / 6
    fn = lambda p, x: down(p, hard_sigmoid(x @ p["g"]) * up(p, x))
    _check(fn, lambda p, x: down(p, up(p, x)))


def test_scale_without_bias():
    fn = lambda p, x: down(p, R2 * nn.relu(up(p, x) / 2.0) * p["s"])
    _, compact = _check(fn, lambda p, x: down(p, R2 * up(p, x) / 2.0 * p["s"]))
    (entry,) = compact["fused"].values()
    assert entry.keys() == {"kernel"}


@pytest.mark.promotes
@pytest.mark.parametrize("rate", [0.5, 0.2])
@pytest.mark.parametrize("style", ["select", "multiply", "after"])
def test_constant_of_dropout(style, rate):
    def drop(z, key):
        keep = jax.random.bernoulli(key, 1 - rate, z.shape)
        if style == "select":
            return jnp.where(keep, z / (1 - rate), 0.0)
        return keep * z / (1 - rate) if style == "multiply" else keep * z * (1 / (1 - rate))

    def fn(p, x, key):
        return down(p, R2 * drop(nn.relu(up(p, x) / 2.0) * 1.5, key) * 0.7)

    with jax.enable_x64(True):
        p, x, key = jax.tree.map(jnp.asarray, P), jnp.asarray(X), jax.random.key(0)
        f = lcjax.collapsible(fn)
        compact, _ = f.trace(f.init(p, x, key), x, key).collapse(fit=lcjax.Exact(max_gap=1.0))
        close(f(compact, x, key), down(p, R2 * 0.7 * 1.5 * up(p, x) / 2.0))


@pytest.mark.parametrize("fit", [lcjax.PerUnit(), lcjax.LeastSquares(ridge=0.0)])
@pytest.mark.parametrize("form", ["NTK with biases", "norm after"])
def test_fits_with_constants(form, fit):
    """Of an activation that is linear on the data a fit finds the straight path."""
    fn = lambda p, x: FORMS[form](lambda z: jnp.maximum(z, -1e3), p, x)
    with jax.enable_x64(True):
        p = jax.tree.map(jnp.asarray, P)
        x = jnp.asarray(np.random.default_rng(1).normal(size=(64, D)))
        f = lcjax.collapsible(fn)
        tree = f.init(p, x)
        fitted = f.trace(tree, x).calibrate(
            lcjax.CalibrationData([x], holdout=0.0, progress=False), fit=fit
        )
        compact, _ = f.trace(tree, x).collapse(fit=fit, calibration=fitted)
        close(f(compact, x), FORMS[form](lambda z: z, p, x), 1e-5)


def test_constants_fold_under_strict_promotion_in_scan():
    scales = np.array([0.5, 2.0], np.float32)
    layers = {name: jnp.stack([P[name], -P[name]]).astype("float32") for name in ("u", "v", "b")}

    def form(a, p, x):
        def step(x, layer):
            p, scale = layer
            h = a(scale * up(p, x)) * np.float32(R2) + p["b"][None, None]
            return x + jnp.pad(down(p, h), ((0, 0), (0, 0), (0, D - OUT))), None

        return jax.lax.scan(step, x, (p, scales))[0]

    f = lcjax.collapsible(lambda p, x: form(nn.relu, p, x))
    x = jnp.asarray(X, jnp.float32)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        tree = f.init(layers, x)
        compact, _ = f.trace(tree, x).collapse(fit=lcjax.Exact(max_gap=1.0))
        close(f(compact, x), form(lambda z: z, layers, x), 1e-5)
