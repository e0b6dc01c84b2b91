"""Keras 3 on the JAX backend, by its stateless call."""

import os

import jax
import pytest

from tests.clients.contract import Client, check
from tests.clients.packages import client

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = client("keras", "keras")


def encoder():
    """Returns a text classifier with two transformer blocks, in the functional style."""
    layers = keras.layers
    tokens = keras.Input((8,), dtype="int32")
    x = layers.Embedding(50, 32)(tokens)
    for i in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8)(y, y)])
        y = layers.Dense(128, activation="gelu", name=f"up_{i}")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(32, name=f"down_{i}")(layers.Dropout(0.1)(y))])
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def test_transformer(record_property):
    if keras.backend.backend() != "jax":
        pytest.skip("KERAS_BACKEND is not jax")
    model = encoder()
    names = [variable.path for variable in model.trainable_variables]
    params = dict(zip(names, (each.value for each in model.trainable_variables), strict=True))
    state = [each.value for each in model.non_trainable_variables]

    def fn(params, tokens):
        outputs, _ = model.stateless_call([params[name] for name in names], state, tokens)
        return outputs

    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 50)
    sites = [f"up_{i}" for i in range(2)]
    client = Client("functional transformer, 2 blocks", "keras", fn, params, (tokens,), sites)
    check(client, record_property)
