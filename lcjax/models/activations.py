"""Activations of published models, and the names that configs and command lines use for them."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp


def exact_gelu(x: jax.Array) -> jax.Array:
    """Returns `x Φ(x)` elementwise in x's dtype, Φ being the normal distribution function.

    In float32 it is `x (1 + erf(x / √2)) / 2`: XLA evaluates one rational function, with absolute
    errors to 2e-6, and the result is 0 far below 0. `nn.gelu` uses erfc, two rational functions
    with a small relative error there. Narrower dtypes, for which 1 + erf is too coarse, use erfc.

    Args:
      x: floating point array of any shape.

    Example:
      >>> exact_gelu(jax.numpy.array([-20.0, 0.0, 20.0])).tolist()
      [-0.0, 0.0, 20.0]

    References:
      Hendrycks and Gimpel 2016, arXiv 1606.08415, equation 1.
    """
    if x.dtype not in (jnp.float32, jnp.float64):
        return nn.gelu(x, approximate=False)
    return 0.5 * x * (1 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": exact_gelu,
    "gelu_new": nn.gelu,
    "gelu_pytorch_tanh": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}
