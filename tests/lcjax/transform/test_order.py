"""The lowered program is the same in every process, and calls come after what they read."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import lcjax
from tests.helpers.functions import PAIR, X, pair

PROGRAM = """
import hashlib, jax, jax.numpy as jnp, lcjax
from jax import nn
junk = [object() for _ in range({junk})]
acts = dict(
    gelu=lambda z: nn.gelu(z, approximate=False), softplus=nn.softplus,
    nan=lambda z: jnp.nan_to_num(nn.gelu(z)), clip=lambda z: jnp.clip(nn.gelu(z), -1.0, 6.0),
    tanh=lambda z: nn.hard_tanh(nn.gelu(z)), selu=lambda z: nn.selu(nn.soft_sign(z)),
)
P, x = dict(u=jnp.ones((2, 3)), v=jnp.ones((3, 2))), jnp.ones((1, 2))
text = ""
for act in acts.values():
    f = lcjax.collapsible(lambda p, x: act(x @ p["u"]) @ p["v"])
    t = f.init(P, x)
    t["slopes"] = {{"u": {{"slope": jnp.float32(0.3)}}}}
    text += jax.jit(f).lower(t, x).as_text()
print(hashlib.sha256(text.encode()).hexdigest())
"""
NESTED = {
    "nan_to_num(gelu)": lambda z: jnp.nan_to_num(jax.nn.gelu(z)),
    "nan_to_num(relu)": lambda z: jnp.nan_to_num(jax.nn.relu(z)),
    "clip(relu, 0, 6)": lambda z: jnp.clip(jax.nn.relu(z), 0, 6),
    "clip(gelu, -1, 6)": lambda z: jnp.clip(jax.nn.gelu(z), -1.0, 6.0),
    "relu6(silu)": lambda z: jax.nn.relu6(jax.nn.silu(z)),
    "where(z > 0, silu, elu)": lambda z: jnp.where(z > 0, jax.nn.silu(z), 0.1 * jax.nn.elu(z)),
    "leaky_relu(tanh)": lambda z: jax.nn.leaky_relu(jnp.tanh(z)),
    "selu(soft_sign)": lambda z: jax.nn.selu(jax.nn.soft_sign(z)),
    "where(relu > 1, 1, relu)": lambda z: jnp.where(jax.nn.relu(z) > 1, 1.0, jax.nn.relu(z)),
    "hard_tanh(exact gelu)": lambda z: jax.nn.hard_tanh(jax.nn.gelu(z, approximate=False)),
    "jit of two": jax.jit(lambda z: jnp.nan_to_num(jax.nn.gelu(z))),
    "relu(gelu + silu)": lambda z: jax.nn.relu(jax.nn.gelu(z) + jax.nn.silu(z) * jnp.tanh(z)),
}


def test_order_of_activations_made_of_calls():
    def both(p, x):
        return [pair(act)(p, x) for act in NESTED.values()]

    def formula(p, x):
        linear = pair(lambda z: z)(p, x)
        return [0.3 * linear + 0.7 * each for each in both(p, x)]

    fs = [lcjax.collapsible(pair(act)) for act in NESTED.values()]
    tree = fs[0].init(PAIR, X) | {"slopes": {"w1": {"slope": jnp.float32(0.3)}}}
    got = jax.jit(lambda tree, x: [f(tree, x) for f in fs])(tree, X)
    for name, each, want in zip(NESTED, got, jax.jit(formula)(PAIR, X), strict=True):
        assert jnp.abs(each - want).max() < 1e-5, name


@pytest.mark.slow
def test_lowered_text_is_the_same_in_every_process():
    digests = set()
    for seed in (0, 1, 7):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(junk=seed * 1013)],
            env=os.environ | {"PYTHONHASHSEED": str(seed), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_order_with_call_of_several_results():
    two = jax.jit(lambda z: (jnp.tanh(z), jnp.sin(z)))

    @jax.custom_jvp
    def gate(z):
        first, second = two(z)
        return first + 0 * second

    gate.defjvp(lambda primals, tangents: (gate(*primals), tangents[0] / jnp.cosh(primals[0]) ** 2))

    def act(z):
        return (gate(z) * z + z) * 0.5

    f = lcjax.collapsible(pair(act))
    tree = f.init(PAIR, X)
    assert f.trace(tree, X).sites.paths == ("w1",)
    assert jnp.abs(f(tree, X) - pair(act)(PAIR, X)).max() < 1e-5
