"""Activations by the names that configs and command lines have for them."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax

from lcjax.models.gelu import exact_gelu

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": exact_gelu,
    "gelu_new": nn.gelu,
    "gelu_pytorch_tanh": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}
