"""The activation that a learned slope interpolates with the identity, and its gated form."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend import core

from lcjax.errors import CollapseError
from lcjax.nn.elementwise import check_elementwise
from lcjax.nn.stored import child_path, stored_in
from lcjax.validation.arguments import check_activation, check_slope_per

Activation = Callable[[jax.Array], jax.Array]
SlopePer = Literal["site", "unit"]


def interpolate(
    fn: Callable[..., jax.Array], z: jax.Array, slope: jax.Array, *others: jax.Array
) -> jax.Array:
    """Returns `α z + (1 − α) fn(z)` in z's dtype; `1 − α` is formed in the slope's own dtype.

    Differentiable in both modes and to any order. The backward pass stores the inputs only and
    recomputes fn; the gradient of the slope is computed and summed in the slope's own dtype, or in
    z's if that is wider.

    Args:
      fn: an elementwise function; floats that it closes over are differentiated too.
      z: pre-activations of any shape.
      slope: α, a scalar or one for each unit, (units,), along the last axis of z.
      *others: further arguments of fn, such as the gate of a gated unit.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> lcjax.nn.interpolate(jax.nn.relu, jnp.array([-4.0, 2.0]), jnp.float32(0.25)).tolist()
      [-1.0, 2.0]
    """
    of_z, of_slope = (jax.typeof(x).manual_axis_type.varying for x in (z, slope))
    varying = tuple(of_z - of_slope)  # in jax.shard_map
    slope = jax.lax.pcast(slope, varying, to="varying") if varying else slope
    if slope.ndim:  # the axes of z, so that products need no broadcasting of ranks
        slope = jnp.expand_dims(slope, tuple(range(z.ndim - slope.ndim)))
    fn, captured = _opened(fn, (z, *others))
    return _interpolate(fn, z, slope, *others, *captured)


def _opened(
    fn: Callable[..., jax.Array], inputs: Sequence[jax.Array]
) -> tuple[Callable[..., jax.Array], list[Any]]:
    """Returns fn with the traced values that it closes over as arguments, and those values.

    As `jax.closure_convert`, which keeps every function that it was called with alive.
    """
    closed = jax.make_jaxpr(lambda *inputs: fn(*inputs))(*inputs)
    captured = [value for value in closed.consts if isinstance(value, Tracer)]
    if not captured:
        return fn, []
    consts = [None if isinstance(value, Tracer) else value for value in closed.consts]
    jaxpr = closed.jaxpr
    opened = jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])
    run = core.jaxpr_as_fun(core.ClosedJaxpr(opened, ()))

    def with_captured(*values: jax.Array) -> jax.Array:
        own, traced = values[: len(inputs)], iter(values[len(inputs) :])
        return run(*(next(traced) if each is None else each for each in consts), *own)[0]

    return with_captured, captured


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _interpolate(
    fn: Callable[..., jax.Array], z: jax.Array, slope: jax.Array, *rest: jax.Array
) -> jax.Array:
    return slope.astype(z.dtype) * z + (1 - slope).astype(z.dtype) * fn(z, *rest)


@_interpolate.defjvp
def _interpolate_jvp(
    fn: Callable[..., jax.Array], primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    # A checkpointed linear map stores its primals only. Without barriers XLA may still share fn(z)
    # with the forward pass.
    linear = jax.checkpoint(partial(_interpolate_linear, fn), prevent_cse=False)
    return _interpolate(fn, *primals), linear(primals, tangents)


def _interpolate_linear(
    fn: Callable[..., jax.Array], primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> jax.Array:
    """Returns `α dz + (1 − α) dh + (z − h) dα` with h = fn(z)."""
    (z, slope, *rest), (dz, d_slope, *d_rest) = primals, tangents
    h, dh = jax.jvp(fn, (z, *rest), (dz, *d_rest))
    with jax.numpy_dtype_promotion("standard"):
        wide = jnp.promote_types(z.dtype, slope.dtype)
    z_wide = z.astype(wide)
    # The select changes no value. XLA for CPUs does not fuse it into the sum over (z − h) g, and so
    # stores z − h, computed in one pass from what z is computed from, instead of both z and h.
    missed = jnp.where(jnp.isnan(z_wide), z_wide, z_wide - h.astype(wide))
    through_slope = missed * d_slope.astype(wide)
    through_fn = (1 - slope).astype(z.dtype) * dh
    return slope.astype(z.dtype) * dz + through_fn + through_slope.astype(z.dtype)


class CollapsibleActivation(nn.Module):
    """An elementwise activation with a learned slope α: `a(z) = α z + (1 − α) fn(z)`.

    At slope 0 it is exactly `fn`, at slope 1 exactly the identity; with relu it is PReLU with
    negative slope α. Computed in the dtype of z; the slope in params is float32: a scalar, or one
    for each unit, (units,), along the last axis of z.

    Attributes:
      fn: the elementwise activation, such as `nn.gelu`.
      slope_init: the slope that `init` gives.
      slope_per: whether `init` gives one slope for the "site" or one for each "unit"; afterwards
        the params decide.

    Raises:
      CollapseError: if params have slopes of another number of units; names the path.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> act = lcjax.CollapsibleActivation(nn.relu, slope_init=0.25)
      >>> act.apply(act.init(jax.random.key(0), jnp.ones(2)), jnp.array([-4.0, 2.0])).tolist()
      [-1.0, 2.0]

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3.
    """

    fn: Activation
    slope_init: float = 0.0
    slope_per: SlopePer = "site"

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Maps z, of any shape, to the same shape and dtype."""
        check_activation(self.fn, "CollapsibleActivation")
        if self.is_initializing():
            check_elementwise(self.fn, z)
        slope = _slope(self, self.slope_init, self.slope_per, z.shape)
        return interpolate(self.fn, z, slope)


class CollapsibleGate(nn.Module):
    """A gated unit's activation with a slope: `(1 − α) fn(gate) ⊙ value + α value`.

    At slope 1 the result is the value for every gate.

    Attributes:
      fn: the elementwise activation of the gate, such as `nn.silu` (SwiGLU).
      slope_init: the slope that `init` gives.
      slope_per: as for `CollapsibleActivation`.

    Raises:
      CollapseError: if params have slopes of another number of units; names the path.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> gate, value = jnp.array([-1.0, 2.0]), jnp.array([3.0, 3.0])
      >>> act = lcjax.CollapsibleGate(nn.relu, slope_init=0.5)
      >>> act.apply(act.init(jax.random.key(0), gate, value), gate, value).tolist()
      [1.5, 4.5]
    """

    fn: Activation
    slope_init: float = 0.0
    slope_per: SlopePer = "site"

    @nn.compact
    def __call__(self, gate: jax.Array, value: jax.Array) -> jax.Array:
        """Gates value by gate, both of the same shape; returns that shape in the dtype of value."""
        check_activation(self.fn, "CollapsibleGate")
        if self.is_initializing():
            check_elementwise(self.fn, gate)
        slope = _slope(self, self.slope_init, self.slope_per, gate.shape)
        opened = interpolate(lambda _, gate: self.fn(gate), jnp.ones_like(gate), slope, gate)
        return opened * value


def _slope(module: nn.Module, start: float, per: SlopePer, shape: tuple[int, ...]) -> jax.Array:
    """Returns the slope of a module for pre-activations of this shape."""
    check_slope_per(per, type(module).__name__)
    stored = stored_in(module).get("slope")
    of_units = shape[-1:] if per == "unit" else ()
    own = of_units if stored is None else jnp.shape(stored)
    if own not in ((), shape[-1:]):
        raise CollapseError(
            f"{child_path(module, 'slope')}: got slopes of shape {own}, expected a scalar or "
            f"{shape[-1:]}, one for each unit. Give the module the width that the params were made "
            "with."
        )
    return module.param("slope", nn.initializers.constant(start), own, jnp.float32)
