"""Every Dense that leads to another has a row in `explain`, with its true reason."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lcjax
from lcjax.transform.analysis.reasons import Cause, Reason
from tests.helpers.functions import PAIR, X, arrays, dense, pair

x = X[0]  # (5, 6)
E = arrays(u=(3, 6, 8), d=(3, 8, 6), b=(3, 8))
W = arrays(w=(6, 8), v=(6, 8), c=(8, 4), cc=(16, 4), c6=(14, 4), both=(6, 16), n=(2, 6, 8))
SUMMED = Reason(Cause.REDUCTION, op="reduce_prod")


def summed_experts(p, x):
    h = nn.softmax(jnp.einsum("td,edf->etf", x, p["u"]))
    return jnp.einsum("etf,efd->etd", h, p["d"])


def ragged(p, x):
    groups = jnp.array([2, 2, 1])
    return lax.ragged_dot(nn.gelu(lax.ragged_dot(x, p["u"], groups)), p["d"], groups)


def gathered(p, x):
    e = jnp.argmax(x[:, :3], -1)
    h = nn.gelu(jnp.einsum("td,tdf->tf", x, p["u"][e]))
    return jnp.einsum("tf,tfd->td", h, p["d"][e])


def of_one_leaf(p, x):
    return sum(nn.relu(x @ p["u"][i]) @ p["d"][i] for i in range(2))


def picked(p, x):
    step = lambda x, i: (x + nn.relu(x @ p["u"][i]) @ p["d"][i], None)
    return lax.scan(step, x, jnp.arange(3))[0]


def film(p, x):
    return nn.relu((x @ p["w"]) * (1 + x[:, :1])) @ p["c"]


def towers(p, x):
    return nn.relu(jnp.concatenate([x @ p["w"], x @ p["v"]], -1)) @ p["cc"]


def skip(p, x):
    return jnp.concatenate([nn.relu(x @ p["w"]), x], -1) @ p["c6"]


def gated(cut):
    def fn(p, x):
        gate, value = cut(p, x)
        return (nn.silu(gate) * value) @ p["c"]

    return fn


def interleaved(p, x):
    h = x @ p["both"]
    return h[..., ::2], h[..., 1::2]


def stacked(p, x):
    h = jnp.einsum("td,ndf->tnf", x, p["n"])
    return h[:, 0], jnp.clip(h[:, 1], -1, 1)


def reshaped(p, x):
    h = (x @ p["both"]).reshape(-1, 2, 8)
    return h[:, 0], h[:, 1]


def clipped(p, x):
    gate, value = jnp.split(x @ p["both"], 2, -1)
    return gate, jnp.clip(value, -1, 1)


def product(p, x):
    return jnp.prod(jnp.stack([nn.gelu(x @ p["w"]), x @ p["v"]]), 0) @ p["c"]


def token_norm(p, x):
    z = dense(p, 1, x)
    return pair_after(p, (z - p["m"][:, None]) / jnp.sqrt(p["m"][:, None] ** 2 + 1))


def pair_after(p, z):
    return dense(p, 2, nn.relu(z))


def halted(p, x):
    return dense(p, 2, lax.stop_gradient(nn.relu(dense(p, 1, x))))


def halted_inside(p, x):
    return dense(p, 2, nn.relu(lax.stop_gradient(jnp.tanh(dense(p, 1, x)))))


def frozen(p, x):
    return nn.relu(x @ lax.stop_gradient(p["w1"])) @ p["w2"]


BY_TOKEN = PAIR | {"pos": arrays(pos=(5, 16))["pos"], "m": jnp.arange(5.0)}
add, div = (Reason(Cause.BY_TOKEN, op=name) for name in ("add", "div"))
joined = Reason(Cause.NOT_BY_UNIT, op="concatenate")
CASES = {
    "a softmax in experts": (summed_experts, E, {"u": Reason(Cause.REDUCTION, op="reduce_sum")}),
    "ragged_dot": (ragged, E, {"u": Reason(Cause.RAGGED, op="ragged_dot")}),
    "gathered": (gathered, E, {"u": Reason(Cause.GATHERED, op="gather")}),
    "experts of one leaf": (
        of_one_leaf,
        E,
        {"u": Reason(Cause.ONE_LEAF, which="before", leaf="u")},
    ),
    "picked in a scan": (picked, E, {"u": Reason(Cause.PICKED)}),
    "FiLM": (film, W, {"w": Reason(Cause.OTHER)}),
    "two towers": (towers, W, {"w": joined, "v": joined}),
    "concatenated skip": (skip, W, {"w": joined}),
    "gate and value interleaved": (gated(interleaved), W, {"both": Reason(Cause.ONE_KERNEL)}),
    "gate and value stacked": (gated(stacked), W, {"n": Reason(Cause.TWO_PARTS)}),
    "gate and value reshaped": (gated(reshaped), W, {"both": Reason(Cause.ONE_KERNEL)}),
    "a clipped value": (gated(clipped), W, {"both": Reason(Cause.TWO_PARTS)}),
    "a product over a stack": (product, W, {"w": SUMMED, "v": SUMMED}),
    "complex kernel": (
        lambda p, x: jnp.tanh(x @ p["w"]) @ p["c"],
        W | {"w": W["w"] * 1j},
        {"w": Reason(Cause.DTYPE, which="before", dtype="complex64")},
    ),
    "positions before": (
        lambda p, x: pair_after(p, dense(p, 1, x) + p["pos"]),
        BY_TOKEN,
        {"w1": add},
    ),
    "positions after": (
        lambda p, x: dense(p, 2, nn.relu(dense(p, 1, x)) + p["pos"]),
        BY_TOKEN,
        {"w1": add},
    ),
    "positions on a gated value": (
        lambda p, x: dense(p, 2, nn.silu(x @ p["w1"]) * (x @ p["g"] + p["pos"])),
        BY_TOKEN | arrays(g=(6, 16)),
        {"g": add},
    ),
    "norm along tokens": (token_norm, BY_TOKEN, {"w1": div}),
    "added to itself": (
        pair(lambda z: nn.relu(z + z)),
        PAIR,
        {"w1": Reason(Cause.UNFOLDED, op="add")},
    ),
    "softmax over all tokens": (
        pair(lambda z: nn.softmax(z, 0)),
        PAIR,
        {"w1": Reason(Cause.REDUCTION, op="reduce_sum")},
    ),
    "stop_gradient": (halted, PAIR, {"w1": Reason(Cause.STOPPED)}),
    "stop_gradient inside": (halted_inside, PAIR, {"w1": Reason(Cause.STOPPED)}),
    "stop_gradient on a kernel": (frozen, PAIR, {"w1": Reason(Cause.FROZEN, which="before")}),
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", CASES)
def test_explain_gives_reason_for_every_pair(name):
    fn, params, want = CASES[name]
    explained = lcjax.collapsible(fn).trace(params, x).explain()
    assert explained.sites == ()
    assert dict(explained.rejected) == want


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(y, y)
        return x + nn.Dense(4, name="down")(nn.gelu(nn.Dense(8, name="up")(nn.LayerNorm()(x))))


class Blocks(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(5, 4)(ids)
        for i in range(3):
            x = Block(name=f"block_{i}")(x)
        return nn.Dense(2, name="head")(nn.LayerNorm()(x))


def test_explain_of_transformer_blocks():
    ids = jnp.ones((2, 3), jnp.int32)
    variables = jax.eval_shape(Blocks().init, jax.random.key(0), ids)
    explained = lcjax.collapsible(Blocks().apply).trace(variables, ids).explain()
    assert explained.sites == tuple(f"block_{i}/up" for i in range(3))
    rows = [f"block_{i}/{name}" for i in range(3) for name in ("attention/out", "down")]
    assert [path for path, _ in explained.rejected] == rows
    assert {reason for _, reason in explained.rejected} == {
        Reason(Cause.REDUCTION, op="reduce_sum")
    }


def test_explain_of_straight_through_estimator():
    """Their gradient goes around the `stop_gradient`."""
    rounded = lambda z: z + lax.stop_gradient(jnp.round(nn.relu(z)) - z)
    f = lcjax.collapsible(pair(rounded))
    tree = f.init(PAIR, x) | {"slopes": {"w1": {"slope": jnp.float32(1)}}}
    compact, _ = f.trace(tree, x).collapse()
    gradient = lambda tree: jax.grad(lambda x: f(tree, x).sum())(x)
    np.testing.assert_allclose(gradient(compact), gradient(tree), rtol=1e-4)


def test_explain_of_two_parts_of_one_leaf():
    fn = lambda p, x: nn.relu(x @ p["layers"][0]["n"][0]) @ p["layers"][0]["n"][1]
    params = {"layers": [{"n": arrays(n=(2, 6, 6))["n"]}]}
    ((path, reason),) = lcjax.collapsible(fn).trace(params, x).explain().rejected
    assert (path, reason) == ("layers/0/n", Reason(Cause.BOTH_PARTS, leaf="layers/0/n"))
