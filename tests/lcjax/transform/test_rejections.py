"""What is no site is left alone, and `explain` says why."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import lcjax
from lcjax.transform.analysis.reasons import Cause, Reason
from tests.helpers.functions import KEY, PAIR, STACKED, X, arrays, dense, pair

TWO = PAIR | arrays(w3=(16, 4), w4=(4, 6), g=(6, 16))


def hidden(p, x):
    return nn.relu(dense(p, 1, x))


def used_again(p, x):
    h = hidden(p, x)
    return dense(p, 2, h), h.sum()


def two_heads(p, x):
    h = hidden(p, x)
    return dense(p, 2, h), h @ p["w3"]


def returned(p, x):
    h = hidden(p, x)
    return dense(p, 2, h), h


def layer_norm(p, x):
    h = hidden(p, x)
    return dense(p, 2, (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True)))


def rms_norm_of_a_gated_unit(p, x):
    h = nn.silu(x @ p["g"]) * (x @ p["w1"])
    return dense(p, 2, h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True)))


def different_loops(p, x):
    h = hidden(p, x)
    return lax.scan(lambda carry, _: (carry + dense(p, 2, h), None), X[..., :4], None, length=2)[0]


@jax.custom_vjp
def own_derivative(p, x):
    return pair(nn.relu)(p, x)


own_derivative.defvjp(lambda p, x: (own_derivative(p, x), (p, x)), lambda saved, g: saved)


def shared_and_stacked(p, x):
    """The kernel before belongs to a layer of the scan, the kernel after to all of them."""
    step = lambda x, w1: (x + nn.relu(x @ w1) @ p["w2"], None)
    return lax.scan(step, x, p["w1"])[0]


SUM = "a norm, softmax or pooling over units or tokens is between"
CASES = {
    "used elsewhere": (used_again, TWO, "its hidden value is used elsewhere too, by `reduce_sum`"),
    "two heads": (two_heads, TWO, "its hidden value is used elsewhere too, by `dot_general`"),
    "returned": (returned, TWO, "its hidden value is returned by the function"),
    "tied": (
        lambda p, x: pair(nn.relu)(p, x) @ p["w2"].T,
        TWO,
        "the kernel after it, w2, is used elsewhere too, by `transpose` (tied weights)",
    ),
    "tied to itself": (
        lambda p, x: nn.relu(x @ p["w1"]) @ p["w1"].T,
        TWO,
        "the kernel w1 is used on both sides of it (tied weights)",
    ),
    "kernel returned": (
        lambda p, x: (pair(nn.relu)(p, x), p["w1"]),
        TWO,
        "the kernel before it, w1, is returned by the function (return only what changes)",
    ),
    "shared bias": (
        lambda p, x: pair(nn.relu)(p, x) + p["b1"][:4],
        TWO,
        "b1, which fusing would fold in, is used elsewhere too, by `slice`",
    ),
    "layer norm": (layer_norm, TWO, f"{SUM} (`reduce_sum`)"),
    "softmax": (pair(nn.softmax), TWO, f"{SUM} (`reduce_sum`)"),
    "maxout": (
        lambda p, x: dense(p, 1, x).reshape(3, 5, 4, 4).max(-1) @ p["w4"],
        TWO,
        f"{SUM} (`reduce_max`)",
    ),
    "sort": (
        lambda p, x: dense(p, 2, jnp.sort(dense(p, 1, x))),
        TWO,
        "`sort` is between, which does not act on each unit alone",
    ),
    "pooling": (lambda p, x: dense(p, 2, hidden(p, x).mean(1)), TWO, f"{SUM} (`reduce_sum`)"),
    "linear": (
        pair(lambda z: 1 * z),
        TWO,
        "only linear steps are between them, so there is no activation",
    ),
    "two Dense, not a gate": (
        lambda p, x: dense(p, 2, nn.relu(x @ p["g"]) + nn.relu(x @ p["w1"])),
        TWO,
        "it depends on the outputs of two Dense layers and is not value times gate",
    ),
    "computed kernel": (
        lambda p, x: hidden(p, x) @ (p["w2"] * p["b2"]),
        TWO,
        "the kernel after it is computed from params and is not itself one of them",
    ),
    "quantised kernel": (
        lambda p, x: nn.relu(x @ p["q"].astype(x.dtype)) @ p["w2"],
        TWO | {"q": jnp.ones((6, 16), jnp.int8)},
        "the kernel before it is quantized (stored as int8). Collapse the float kernels first, "
        "then quantize the compact ones",
    ),
    "different loops": (
        different_loops,
        TWO,
        "the two Dense layers are in different loops, or only one of them in a branch",
    ),
    "a layer and all of them": (
        shared_and_stacked,
        {"w1": STACKED["w1"], "w2": PAIR["w1"].T},
        "one kernel belongs to one layer of a scan and the other to all of them",
    ),
    "tokens merged": (
        lambda p, x: hidden(p, x).reshape(-1, 16) @ p["w2"],
        TWO,
        "`reshape` is between, which merges or splits axes of tokens or units",
    ),
    "a condition": (
        lambda p, x: lax.cond(p["n"] > 0, nn.relu, nn.tanh, dense(p, 1, x)) @ p["w2"],
        TWO | {"n": jnp.int32(1)},
        "`cond` is between, which does not act on each unit alone",
    ),
    "two parts of one leaf": (
        lambda p, x: nn.relu(x @ p["both"][0]) @ p["both"][1],
        arrays(both=(2, 6, 6)),
        "the kernels before and after it are parts of one leaf, both",
    ),
    "picked by a loop's counter": (
        lambda p, x: lax.fori_loop(0, 4, lambda i, x: x + nn.relu(x @ p["w1"][i]) @ p["w2"][i], x),
        STACKED,
        "a loop counter indexes it. Pass the layers to lax.scan as `xs`, or unroll the loop",
    ),
    "softmax over tokens": (
        lambda p, x: dense(p, 2, nn.softmax(dense(p, 1, x), axis=1)),
        TWO,
        f"{SUM} (`reduce_sum`)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_explain_rejects(name):
    fn, params, reason = CASES[name]
    f = lcjax.collapsible(fn)
    explained = f.trace(params, X).explain()
    assert explained.sites == ()
    assert reason in [str(why) for _, why in explained.rejected]
    assert f"not a site: {reason}" in str(explained)
    with pytest.raises(lcjax.CollapseError, match="the function has no site"):
        f.init(params, X)


def in_a_shard_map(p, x):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (jax.P(), jax.P("data"))
    return jax.shard_map(pair(nn.relu), mesh=mesh, in_specs=specs, out_specs=specs[1])(p, x)


@pytest.mark.parametrize(
    "fn, name, cause",
    [
        (own_derivative, "custom_vjp_call", Cause.UNOPENED),
        (in_a_shard_map, "shard_map", Cause.SHARDED),
    ],
)
def test_explain_names_opaque_calls(fn, name, cause):
    explained = lcjax.collapsible(fn).trace(TWO, X).explain()
    assert explained.rejected[0] == (f"(inside `{name}`)", Reason(cause))


def test_explain_lists_sites_and_fused_sites():
    f = lcjax.collapsible(
        lambda p, x: pair(nn.relu)(p["a"], x) + nn.softmax(pair(nn.relu)(p["b"], x))
    )
    params = f.init({"a": PAIR, "b": PAIR}, X)
    compact, _ = f.trace(params, X).collapse("a/w1", lcjax.Exact(max_gap=1))
    explained = f.trace(compact, X).explain()
    assert (explained.sites, explained.fused, explained.rejected) == (("b/w1",), ("a/w1",), ())
    assert "fused" in str(explained) and "a site" in str(explained)


def test_explain_rejects_other_data():
    masked = lambda p, x, mask: dense(p, 2, hidden(p, x) * mask)
    explained = lcjax.collapsible(masked).trace(TWO, X, X[..., :1]).explain()
    assert explained.rejected == (("w1", Reason(Cause.OTHER)),)


def test_explain_rejects_conditions_and_statistics_as_inputs():
    chosen = lambda p, x, flag: lax.cond(flag, nn.relu, nn.tanh, dense(p, 1, x)) @ p["w2"]
    ((_, reason),) = lcjax.collapsible(chosen).trace(TWO, X, jnp.array(True)).explain().rejected
    assert str(reason).startswith("`cond` is between")
    normed = lambda p, x, mean: dense(p, 2, nn.relu(dense(p, 1, x) - mean))
    ((_, reason),) = lcjax.collapsible(normed).trace(TWO, X, jnp.ones(16)).explain().rejected
    assert "statistics of a norm fold in where they are given with the params" in str(reason)


def test_explain_rejects_block_used_twice():
    def twice(p, x):
        for _ in range(2):
            z = nn.relu(dense(p, 1, x))
            x = (z - z.mean((0, 1))) @ p["w4"]
        return x

    explained = lcjax.collapsible(twice).trace(PAIR | arrays(w4=(16, 6)), X).explain()
    assert explained.sites == ()
    assert ("w1", Reason(Cause.TIED)) in explained.rejected


def test_cast_to_integer_is_activation():
    truncated = pair(lambda z: z.astype(jnp.int32).astype(z.dtype))
    assert lcjax.collapsible(truncated).trace(TWO, X).explain().sites == ("w1",)


def test_random_numbers_in_activation_are_accepted():
    noisy = lambda p, x, key: dense(p, 2, hidden(p, x) + jax.random.normal(key, (3, 5, 16)))
    assert lcjax.collapsible(noisy).trace(TWO, X, KEY).explain().sites == ("w1",)
