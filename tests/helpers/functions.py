"""Functions for tests of lcjax.collapsible: what they are, and which sites they have."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.helpers.tolerance import assert_close


class Case(NamedTuple):
    """A function of params and inputs.

    Attributes:
      fn: the function.
      params: its first argument.
      inputs: its others.
      sites: the paths of its sites, in forward order.
      kwargs: arguments by name.
    """

    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    sites: tuple[str, ...]
    kwargs: dict[str, Any] = {}


def arrays(**shapes):
    """Returns random float32 arrays of these shapes, of about unit gain.

    Made in NumPy and put on the device, for which nothing is compiled.
    """
    rng = np.random.default_rng(sum(map(len, shapes)))
    scaled = lambda shape: rng.normal(size=shape) / np.sqrt(max(shape[:-1], default=1))
    return {name: jax.device_put(np.float32(scaled(shape))) for name, shape in shapes.items()}


X = arrays(x=(3, 5, 6))["x"]
PAIR = arrays(w1=(6, 16), b1=(16,), w2=(16, 4), b2=(4,))


def dense(p, i, x):
    return x @ p[f"w{i}"] + p[f"b{i}"] if f"b{i}" in p else x @ p[f"w{i}"]


def pair(act):
    """Returns two Dense layers with an activation between them."""
    return lambda p, x: dense(p, 2, act(dense(p, 1, x)))


def norm(p, z, axis=-1):
    shape = [1] * z.ndim
    shape[axis] = -1
    scale = p["scale"] * lax.rsqrt(p["var"] + 1e-5)
    return (z - p["mean"].reshape(shape)) * scale.reshape(shape) + p["shift"].reshape(shape)


def normed(order):
    def fn(p, x):
        z = dense(p, 1, x)
        return dense(p, 2, nn.relu(norm(p, z)) if order == "before" else norm(p, nn.relu(z)))

    return fn


NORM = arrays(scale=(16,), shift=(16,), mean=(16,)) | {"var": jnp.linspace(0.5, 2, 16)}


def dropped(style):
    def drop(z, key):
        keep = jax.random.bernoulli(key, 0.8, z.shape)
        if style == "select":
            return lax.select(keep, z / 0.8, jnp.zeros_like(z))
        return keep * z / 0.8 if style == "multiply" else jnp.where(keep, z / 0.8, 0)

    return lambda p, x, key: dense(p, 2, drop(nn.gelu(dense(p, 1, x)), key))


def gated(act, order="gate first"):
    def fn(p, x):
        gate, value = act(x @ p["g"]), x @ p["w1"]
        return dense(p, 2, gate * value if order == "gate first" else value * gate)

    return fn


def merged(p, x):
    gate, value = jnp.split(x @ p["gu"] + p["b"], 2, axis=-1)
    return dense(p, 2, nn.silu(gate) * value)


def stacked_gate(p, x):
    """Gate and value as the two parts of one leaf."""
    return dense(p, 2, nn.gelu(x @ p["gu"][0]) * (x @ p["gu"][1]))


def merged_by_slices(p, x):
    both = x @ p["gu"] + p["b"]
    return dense(p, 2, nn.silu(both[..., :16]) * both[..., 16:])


def chain(p, x):
    h = nn.gelu(dense(p, 1, x))
    h = jnp.tanh(dense(p, 2, h))
    return dense(p, 3, nn.relu(h @ p["w3b"] + p["b2b"]))


def layer(x, p):
    return x + dense(p, 2, nn.gelu(dense(p, 1, x)))


STACKED = arrays(w1=(4, 6, 16), b1=(4, 16), w2=(4, 16, 6), b2=(4, 6))


def scanned(p, x):
    return lax.scan(lambda x, p: (layer(x, p), x.mean()), x, p)


def scanned_with_norm(p, x):
    def step(x, p):
        return x + dense(p, 2, nn.relu(norm(p, dense(p, 1, x)))), None

    return lax.scan(step, x, p)[0]


def over_time(p, xs):
    """One MLP for every step: its kernels are the same in all of them."""
    step = lambda carry, x: (carry + dense(p, 2, nn.gelu(dense(p, 1, x))), None)
    return lax.scan(step, jnp.zeros((*xs.shape[1:-1], 4)), xs)[0]


class TwoScans(nn.Module):
    """Blocks stacked in two levels, rematerialised."""

    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                h = nn.silu(nn.Dense(12, name="up")(nn.LayerNorm()(x)))
                return x + nn.Dense(6, name="down")(h), None

        stack = lambda block, n, name: nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, length=n
        )

        class Stage(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return stack(nn.remat(Block), 2, "inner")(name="blocks")(x, None)

        return stack(Stage, 3, "outer")(name="stages")(x, None)[0]


class Heads(nn.Module):
    """DenseGeneral over two axes, and a product by einsum with its axes in another order."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.DenseGeneral((2, 8), name="split")(x))
        x = nn.DenseGeneral(6, axis=(-2, -1), name="join")(h)
        up, bias = (self.param(n, nn.initializers.normal(0.3), s) for n, s in _HEADS)
        down = self.param("down", nn.initializers.normal(0.3), (7, 2, 5))
        h = nn.silu(jnp.einsum("btd,hkd->bhtk", x, up) + bias[:, None])
        return jnp.einsum("bhtk,ohk->bto", h, down)


_HEADS = (("up", (2, 5, 6)), ("bias", (2, 5)))


class Pixels(nn.Module):
    """1×1 convolutions around a batch norm, then 3×3 ones, which are left alone."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
        x = nn.Conv(16, (1, 1), name="up")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = nn.Conv(6, (1, 1), name="down")(x)
        return nn.Conv(3, (3, 3), name="last")(nn.relu(x))


def linen(module, *inputs, seed=0):
    """Returns variables of a module with every leaf random."""
    variables = jax.jit(module.init)(jax.random.key(seed), *inputs)
    rng = np.random.default_rng(seed)
    noise = lambda leaf: np.asarray(leaf) + rng.uniform(0, 0.3, leaf.shape).astype(leaf.dtype)
    return jax.device_put(jax.tree.map(noise, variables))


KEY = jax.random.key(5)
IMAGE = arrays(image=(2, 4, 4, 3))["image"]
GATED = arrays(g=(6, 16), w1=(6, 16), w2=(16, 4))
MERGED = arrays(gu=(6, 32), b=(32,), w2=(16, 4), b2=(4,))
CHAIN = arrays(w1=(6, 16), b1=(16,), w2=(16, 8), w3b=(8, 12), b2b=(12,), w3=(12, 4), b3=(4,))
ACTIVATIONS = {
    "relu": nn.relu,
    "relu by maximum": lambda z: jnp.maximum(z, 0),
    "gelu": nn.gelu,
    "exact gelu": lambda z: nn.gelu(z, approximate=False),
    "gelu by hand": lambda z: 0.5 * z * (1 + jnp.tanh(0.79788 * (z + 0.044715 * z**3))),
    "silu": nn.silu,
    "silu by hand": lambda z: z * jax.nn.sigmoid(z),
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "elu": nn.elu,
    "softplus": nn.softplus,
    "leaky_relu": nn.leaky_relu,
    "hard_swish": nn.hard_swish,
    "relu6": nn.relu6,
    "mish": jax.nn.mish,
    "squared relu": lambda z: jnp.square(nn.relu(z)),
    "sine": jnp.sin,
    "square": lambda z: z * z,
    "reciprocal": lambda z: 1 / z,
}


def with_every_activation(p, x):
    return sum(pair(act)(p[name], x) for name, act in ACTIVATIONS.items())


CASES = {
    "every activation": Case(
        with_every_activation,
        dict.fromkeys(ACTIVATIONS, PAIR),
        (X,),
        tuple(f"{name}/w1" for name in ACTIVATIONS),
    ),
    "no biases": Case(pair(nn.relu), {n: PAIR[n] for n in ("w1", "w2")}, (X,), ("w1",)),
    "bias before": Case(pair(nn.relu), {n: PAIR[n] for n in ("w1", "b1", "w2")}, (X,), ("w1",)),
    "bias after": Case(pair(nn.relu), {n: PAIR[n] for n in ("w1", "w2", "b2")}, (X,), ("w1",)),
    "PReLU": Case(
        lambda p, x: pair(lambda z: jnp.where(z > 0, z, p["a"] * z))(p, x),
        PAIR | {"a": jnp.float32(0.1)},
        (X,),
        ("w1",),
    ),
    "norm before": Case(normed("before"), PAIR | NORM, (X,), ("w1",)),
    "norm after": Case(normed("after"), PAIR | NORM, (X,), ("w1",)),
    "dropout by select": Case(dropped("select"), PAIR, (X, KEY), ("w1",)),
    "dropout by product": Case(dropped("multiply"), PAIR, (X, KEY), ("w1",)),
    "dropout by where": Case(dropped("where"), PAIR, (X, KEY), ("w1",)),
    "jit": Case(jax.jit(pair(nn.gelu)), PAIR, (X,), ("w1",)),
    "remat": Case(jax.checkpoint(pair(nn.gelu)), PAIR, (X,), ("w1",)),
    "vmap": Case(
        jax.vmap(jax.vmap(lambda p, x: pair(nn.gelu)(p, x), (None, 0)), (None, 0)),
        PAIR,
        (X,),
        ("w1",),
    ),
    "kernels first": Case(
        jax.vmap(lambda p, x: p["b"] @ nn.relu(p["a"] @ x + p["c"]), (None, 0)),
        arrays(a=(16, 6), b=(4, 16), c=(16,)),
        (X[0],),
        ("a",),
    ),
    "SwiGLU": Case(gated(nn.silu), GATED, (X,), ("w1",)),
    "GEGLU, value first": Case(gated(nn.gelu, "value first"), GATED, (X,), ("w1",)),
    "bilinear": Case(gated(lambda z: z), GATED, (X,), ("w1",)),
    "gate and value in one": Case(merged, MERGED, (X,), ("gu",)),
    "gate and value in one, sliced": Case(merged_by_slices, MERGED, (X,), ("gu",)),
    "gate and value stacked": Case(
        stacked_gate, arrays(gu=(2, 6, 16), w2=(16, 4), b2=(4,)), (X,), ("gu",)
    ),
    "chain": Case(chain, CHAIN, (X,), ("w1", "w2", "w3b")),
    "scan": Case(scanned, STACKED, (X,), ("w1",)),
    "scan with norms": Case(
        scanned_with_norm,
        STACKED
        | {name: jnp.stack([leaf * (i + 1) for i in range(4)]) for name, leaf in NORM.items()},
        (X,),
        ("w1",),
    ),
    "scan over time": Case(over_time, PAIR, (X,), ("w1",)),
    "two scans": Case(TwoScans().apply, linen(TwoScans(), X), (X,), ("stages/blocks/up",)),
    "DenseGeneral and einsum": Case(Heads().apply, linen(Heads(), X), (X,), ("split", "up")),
    "1×1 convolutions": Case(Pixels().apply, linen(Pixels(), IMAGE), (IMAGE,), ("up",)),
}


def sloped(params, slope):
    """Returns the tree of a collapsible function with every slope at a value."""
    return params | {"slopes": jax.tree.map(lambda s: jnp.full_like(s, slope), params["slopes"])}


def close(got, want, terms=400):
    """Asserts that two trees agree to the rounding of float32."""
    jax.tree.map(lambda a, b: assert_close(a, b, dtype=np.float32, terms=terms), got, want)
