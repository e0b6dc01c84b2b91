"""Models and functions that `lcjax collapse --model` imports in tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import lcjax


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up, self.norm = nnx.Linear(4, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.down = nnx.Linear(16, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return x + self.down(self.dropout(nnx.relu(self.norm(self.up(x)))))


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.relu(self.up(x)))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([Block(rngs), Plain(rngs), Plain(rngs)])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def deep(seed=0):
    """The model and its inputs."""
    model = Net(nnx.Rngs(seed))
    model.eval()
    return model, jnp.ones((1, 4))


def alone():
    return deep()[0]


def sloped():
    model, x = deep()
    return lcjax.nnx.add_slopes(model, x), x


def wider():
    model, x = deep()
    model.layers[1].up = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
    return model, x


def fails():
    raise RuntimeError("no weights here")


def exits():
    raise SystemExit(0)


class Gated(nn.Module):
    """A linen model with a gated unit, and layers stacked by `nn.scan`."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.Dense(4, name="down")(
            nn.silu(nn.Dense(8, name="gate")(x)) * nn.Dense(8, name="up")(x)
        )
        stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return stack(name="layers")(x, None)[0]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(4, name="down")(nn.relu(nn.Dense(16, name="up")(x))), None


gated = Gated()


def listed(params, x):
    """A plain function of params in lists and tuples."""
    for up, down in params["layers"]:
        x = x + jax.nn.gelu(x @ up) @ down
    return x


NOTHING = 3
