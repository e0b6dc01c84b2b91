"""LoRA products and quantized kernels: `explain` says what is in the way, and in which order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import lcjax
from lcjax.transform.analysis.reasons import Cause, Reason
from tests.helpers.functions import X, arrays

x = X[0]
P = arrays(up=(6, 16), gate=(6, 16), down=(16, 6), a=(6, 2), b=(2, 16), c=(16, 2), d=(2, 6))
BEFORE, AFTER = (Reason(Cause.LORA, which=which) for which in ("before", "after"))


def lora(p, x):
    return nn.relu(x @ p["up"] + 0.5 * (x @ p["a"]) @ p["b"]) @ p["down"]


def lora_after(p, x):
    h = nn.relu(x @ p["up"])
    return h @ p["down"] + (h @ p["c"]) @ p["d"]


def lora_on_both(p, x):
    h = nn.relu(x @ p["up"] + (x @ p["a"]) @ p["b"])
    return h @ p["down"] + (h @ p["c"]) @ p["d"]


def lora_on_value(p, x):
    return (nn.silu(x @ p["gate"]) * (x @ p["up"] + (x @ p["a"]) @ p["b"])) @ p["down"]


def lora_in_kernel(p, x):
    return nn.relu(x @ (p["up"] + 0.5 * p["a"] @ p["b"])) @ p["down"]


def nnx_lora():
    class MLP(nnx.Module):
        def __init__(self, rngs):
            base = nnx.Linear(6, 16, rngs=rngs)
            self.up = nnx.LoRA(6, 2, 16, base_module=base, rngs=rngs)
            self.down = nnx.Linear(16, 6, rngs=rngs)

        def __call__(self, x):
            return self.down(nn.gelu(self.up(x)))

    graphdef, state = nnx.split(MLP(nnx.Rngs(0)))
    return (lambda p, x: nnx.merge(graphdef, p)(x)), nnx.to_pure_dict(state)


@pytest.mark.parametrize(
    "fn, want",
    [
        (lora, {"up": BEFORE}),
        (lora_after, {"up": AFTER}),
        (lora_on_both, {"up": AFTER}),
        (lora_on_value, {"up": BEFORE, "gate": BEFORE}),
        (lora_in_kernel, {"(from a, b, up)": BEFORE}),
    ],
)
def test_lora_is_named(fn, want):
    explained = lcjax.collapsible(fn).trace(P, x).explain()
    assert (explained.sites, dict(explained.rejected)) == ((), want)
    assert "Merge it into the kernel: collapse, then add LoRA" in str(explained)


def test_lora_of_nnx_is_named():
    fn, params = nnx_lora()
    explained = lcjax.collapsible(fn).trace(params, x).explain()
    assert dict(explained.rejected) == {"up/base_module": BEFORE}


def test_bottleneck_without_a_kernel_next_to_it_is_no_lora():
    fn = lambda p, x: nn.relu((x @ p["a"]) @ p["b"]) @ p["down"]
    assert lcjax.collapsible(fn).trace(P, x).explain().sites == ("b",)


def quantized(kernel):
    scale = jnp.abs(kernel).max(0) / 127
    return {"value": jnp.round(kernel / scale).astype(jnp.int8), "scale": scale}


Q = {name: quantized(P[name]) for name in ("up", "down")}


def scaled_kernels(p, x):
    kernel = lambda q: q["value"].astype(x.dtype) * q["scale"]
    return nn.relu(x @ kernel(p["up"])) @ kernel(p["down"])


def scaled_outputs(p, x):
    product = lambda x, q: (x @ q["value"].astype(x.dtype)) * q["scale"]
    return product(nn.relu(product(x, p["up"])), p["down"])


def integers(p, x):
    """As qwix: the activations are quantized by their largest value, and integers multiplied."""

    def product(x, q):
        scale = jnp.abs(x).max(-1, keepdims=True) / 127
        whole = jnp.round(x / scale).astype(jnp.int8)
        dims = (((x.ndim - 1,), (0,)), ((), ()))
        y = jax.lax.dot_general(whole, q["value"], dims, preferred_element_type=jnp.int32)
        return y.astype(x.dtype) * scale * q["scale"]

    return product(nn.relu(product(x, p["up"])), p["down"])


@pytest.mark.parametrize("fn", [scaled_kernels, scaled_outputs, integers])
def test_quantized_kernels_are_named(fn):
    explained = lcjax.collapsible(fn).trace(Q, x).explain()
    ((_, reason),) = explained.rejected
    assert reason == Reason(Cause.QUANTIZED, which="before", dtype="int8")
    assert "Collapse the float kernels first, then quantize" in str(explained)


def test_half_a_pair_quantized_is_named():
    fn = lambda p, x: nn.relu(x @ p["up"]) @ p["down"]["value"].astype(x.dtype)
    explained = lcjax.collapsible(fn).trace(P | {"down": Q["down"]}, x).explain()
    assert dict(explained.rejected) == {"up": Reason(Cause.QUANTIZED, which="after", dtype="int8")}


def activated_product(p, x):
    gate, value = jnp.split(x @ p["up"], 2, -1)
    return nn.relu(gate * value) @ p["down"][:8]


def three_parts(p, x):
    h = x @ p["up"]
    return (nn.silu(h[:, :5]) * h[:, 5:10] * nn.silu(h[:, 10:15])) @ p["down"][:5]


@pytest.mark.parametrize("fn", [activated_product, three_parts])
def test_gates_that_are_no_site_are_named(fn):
    explained = lcjax.collapsible(fn).trace(P, x).explain()
    (reason,) = {reason for path, reason in explained.rejected if path == "up"}
    assert reason.cause in (Cause.TWO_PARTS, Cause.ONE_KERNEL), str(reason)
