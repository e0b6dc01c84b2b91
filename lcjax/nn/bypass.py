"""The affine map that runs next to a narrowed pair of Dense layers, or in its place."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from lcjax.nn.stored import stored_in


class Bypass(nn.Module):
    """Adds to y an affine map of x by what its params have: `y + x W + b`, or `y + b`.

    `lcjax.collapse` makes it; `init` never does. Its presence says that the hidden layer next
    to it may be narrower than the module's fields say.

    Attributes:
      dtype: computation dtype; None takes the common dtype of input and params.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, y: jax.Array | None, x: jax.Array) -> jax.Array:
        """Returns the output of the pair with the map added.

        Args:
          y: output of the pair, (..., d_out); None where the pair is removed.
          x: input of the pair, (..., d_in).
        """
        params = stored_in(self)
        bias = self.param("bias", _stored(params, "bias"))
        if "kernel" in params:
            kernel = self.param("kernel", _stored(params, "kernel"))
            x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
            added = jnp.dot(x, kernel) + bias
        else:
            (bias,) = promote_dtype(bias, dtype=self.dtype)
            added = jnp.broadcast_to(bias, (*x.shape[:-1], bias.shape[-1]))
        return added if y is None else y + added


def _stored(params: Mapping[str, Any], name: str) -> Any:
    """Returns an initializer that gives the stored value's shape, for partial initialization."""

    def initialize(key: jax.Array) -> jax.Array:
        return jnp.zeros(params[name].shape, params[name].dtype)

    return initialize
