"""The activation that a learned slope bends toward the identity, and its gated form."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.arguments import check_activation
from lcjax.elementwise import check_elementwise

Activation = Callable[[jax.Array], jax.Array]


def bend(fn: Activation, z: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns `α z + (1 − α) fn(z)` in z's dtype; `1 − α` is formed in the slope's own dtype.

    The backward pass keeps z alone and recomputes fn(z). Reverse mode only, as every
    `jax.custom_vjp`.

    Args:
      fn: an elementwise function; it may not close over traced values.
      z: pre-activations of any shape.
      slope: scalar α; its gradient is summed in its own dtype.
    """
    of_z, of_slope = (jax.typeof(x).manual_axis_type.varying for x in (z, slope))
    varying = tuple(of_z - of_slope)  # in jax.shard_map
    return _bend(fn, z, jax.lax.pcast(slope, varying, to="varying") if varying else slope)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bend(fn: Activation, z: jax.Array, slope: jax.Array) -> jax.Array:
    return slope.astype(z.dtype) * z + (1 - slope).astype(z.dtype) * fn(z)


def _bend_forward(fn: Activation, z: jax.Array, slope: jax.Array):
    return _bend(fn, z, slope), (z, slope)


def _bend_backward(fn: Activation, residuals: tuple[jax.Array, jax.Array], g: jax.Array):
    z, slope = residuals
    h, pull = jax.vjp(fn, z)
    (through_fn,) = pull((1 - slope).astype(z.dtype) * g)
    slope_gradient = jnp.sum(g * (z - h), dtype=slope.dtype)
    return slope.astype(z.dtype) * g + through_fn, slope_gradient


_bend.defvjp(_bend_forward, _bend_backward)


class CollapsibleActivation(nn.Module):
    """An elementwise activation with a learned slope α: `a(z) = α z + (1 − α) fn(z)`.

    At slope 0 it is exactly `fn`, at slope 1 exactly the identity; with relu it is PReLU with
    negative slope α. Computed in the dtype of z; the slope is a float32 scalar in params.

    Attributes:
      fn: the elementwise activation to bend, such as `nn.gelu`.
      slope_init: the slope that `init` gives; dimensionless.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> act = CollapsibleActivation(nn.relu, slope_init=0.25)
      >>> act.apply(act.init(jax.random.key(0), jnp.ones(2)), jnp.array([-4.0, 2.0])).tolist()
      [-1.0, 2.0]

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """

    fn: Activation
    slope_init: float = 0.0

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Bends z, of any shape; returns the same shape and dtype."""
        check_activation(self.fn, "CollapsibleActivation")
        if self.is_initializing():
            check_elementwise(self.fn, z)
        return bend(self.fn, z, _slope(self, self.slope_init))


class CollapsibleGate(nn.Module):
    """A gated unit's activation with a slope: `(1 − α) fn(gate) ⊙ value + α value`.

    At slope 1 the gate is gone and what remains is the value.

    Attributes:
      fn: the elementwise activation of the gate, such as `nn.silu` (SwiGLU).
      slope_init: the slope that `init` gives; dimensionless.
    """

    fn: Activation
    slope_init: float = 0.0

    @nn.compact
    def __call__(self, gate: jax.Array, value: jax.Array) -> jax.Array:
        """Gates value by gate, both of one shape; returns that shape in value's dtype."""
        check_activation(self.fn, "CollapsibleGate")
        if self.is_initializing():
            check_elementwise(self.fn, gate)
        slope = _slope(self, self.slope_init)
        open_part = (1 - slope).astype(value.dtype) * self.fn(gate)
        return (open_part + slope.astype(value.dtype)) * value


def _slope(module: nn.Module, start: float) -> jax.Array:
    return module.param("slope", nn.initializers.constant(start), (), jnp.float32)
