"""Quickstart: an unchanged Equinox model learns which of its activations may be linear.

python quickstart_any_function.py train digits-compact      # trains, collapses, saves
python quickstart_any_function.py restore digits-compact    # another process: same accuracy
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import lcjax

digits = load_digits()
split = train_test_split(digits.data / 16, digits.target, test_size=0.25, random_state=0)
train_x, test_x, train_y, test_y = map(jnp.float32, split)

# The model does not use lcjax.
mlp = eqx.nn.MLP(64, 10, width_size=256, depth=3, key=jax.random.key(0))
model, static = eqx.partition(mlp, eqx.is_array)
f = lcjax.collapsible(lambda model, x: jax.vmap(eqx.combine(model, static))(x))


def accuracy(params):
    return float((jax.jit(f)(params, test_x).argmax(-1) == test_y).mean())


def train(path, steps=1500):
    params = f.init(model, train_x)  # {"model": ..., "slopes": {site: {"slope": 0.0}}, "fused": {}}
    # A site may cost 0.003 nats.
    tx = lcjax.with_linearity_penalty(optax.adam(1e-3), strength=0.003)
    state = tx.init(params)

    @jax.jit
    def step(params, state, key):
        rows = jax.random.choice(key, len(train_x), (128,))
        x, y = train_x[rows], train_y[rows].astype(int)
        loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(f(p, x), y).mean()
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for key in jax.random.split(jax.random.key(1), steps):
        params, state = step(params, state, key)
    call = f.trace(params, train_x)
    print(call.sites)
    compact, report = call.collapse()  # fuses the sites that became linear
    print(report)
    print(f"accuracy {accuracy(params):.4f}, compact {accuracy(compact):.4f}")
    lcjax.save(path, compact, metadata={"sites": report.collapsed})


def restore(path):
    # Params that are not dicts need `like`; those of Flax do not.
    sites = lcjax.read_metadata(path)["sites"]
    like, _ = f.trace(model, train_x).abstract_collapse(sites)
    print(f"accuracy {accuracy(lcjax.restore(path, like=like)):.4f}, restored")


if __name__ == "__main__":
    {"train": train, "restore": restore}[sys.argv[1]](sys.argv[2])
