"""The affine map that runs beside a narrowed pair of Dense layers, or in its place."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from lcjax.nn.stored import stored_in


class Bypass(nn.Module):
    """Maps x (..., d_in) to (..., d_out) by what its params have: `x W + b`, or b alone.

    `lcjax.collapse` makes it; `init` never does. Its presence says that the hidden layer beside it
    may be narrower than the module's fields say.

    Attributes:
      dtype: computation dtype; None takes the common dtype of input and params.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns what is added to the output of the pair; x (..., d_in)."""
        params = stored_in(self)
        bias = self.param("bias", _stored(params, "bias"))
        if "kernel" not in params:
            (bias,) = promote_dtype(bias, dtype=self.dtype)
            return jnp.broadcast_to(bias, (*x.shape[:-1], bias.shape[-1]))
        kernel = self.param("kernel", _stored(params, "kernel"))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return jnp.dot(x, kernel) + bias


def _stored(params: Mapping[str, Any], name: str) -> Any:
    """Returns an initializer that gives the stored value's shape, for partial initialization."""

    def initialize(key: jax.Array) -> jax.Array:
        return jnp.zeros(params[name].shape, params[name].dtype)

    return initialize
