"""The exact GELU, at the cost of the approximate one."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def exact_gelu(x: jax.Array) -> jax.Array:
    """Returns `x Φ(x)`, Φ the normal distribution function, elementwise in x's dtype.

    In float32 it is `x (1 + erf(x / √2)) / 2`, one rational function in XLA, with absolute errors
    to 2e-6, so that it is 0 far below 0; `nn.gelu` takes two, of erfc, whose relative errors are
    small there. Narrower types, where 1 + erf would be too coarse, take those too.

    References:
      Hendrycks and Gimpel 2016, arXiv 1606.08415, equation 1.
    """
    if x.dtype not in (jnp.float32, jnp.float64):
        return nn.gelu(x, approximate=False)
    return 0.5 * x * (1 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))
