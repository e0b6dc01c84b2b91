"""Root mean square norm."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class RMSNorm(nn.Module):
    """Divides the last axis by its root mean square and multiplies by `scale`, in float32.

    Attributes:
      epsilon: added to the mean square.
      offset: whether to multiply by `1 + scale`, which starts at 0, as Gemma does.
      dtype: dtype of the output; None is the input's.
      param_dtype: dtype of `scale`.

    References:
      Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.
    """

    epsilon: float
    offset: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns normalised x (..., width)."""
        init = nn.initializers.zeros_init() if self.offset else nn.initializers.ones_init()
        scale = self.param("scale", init, x.shape[-1:], self.param_dtype).astype(jnp.float32)
        wide = x.astype(jnp.float32)
        y = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        factor = jnp.float32(1) + scale if self.offset else scale
        return (y * factor.reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype or x.dtype)
