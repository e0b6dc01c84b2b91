"""States of params whose values, or rows, were taken from one of the old params."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from lcjax.optim.seeding import LEVELS, field_of

# Fields of optax's states with averages or sums of gradients, besides those of their magnitudes.
# Others can hold old values of params, which a kernel that was fitted again must not return to.
_AVERAGES = LEVELS | {"mu", "trace", "ema", "m1", "m2", "exp_avg", "acc_grads", "grad_acc"}


@dataclass(frozen=True)
class Taken:
    """How a leaf of narrowed params is taken from one of the old params.

    Attributes:
      source: path of the old param.
      shape: of the old param.
      axes: indices that stay, by axis counted from the end; -1 the outputs, -2 the inputs.
      refitted: whether the leaf has new values.
    """

    source: str
    shape: tuple[int, ...]
    axes: Mapping[int, Any] = field(default_factory=dict)
    refitted: bool = False

    def fits(self, leaf: Any) -> bool:
        """Returns whether what is taken has the shape of a leaf."""
        shape = list(self.shape)
        for axis, indices in self.axes.items():
            if -axis > len(shape):
                return False
            shape[axis] = len(indices)
        return tuple(shape) == jnp.shape(leaf)


def taken_state(fresh: Any, owner: str, path: str, taken: Taken, old: Mapping[str, Any]) -> Any:
    """Returns the state of a narrowed param, taken from the old one; None where it has none.

    Args:
      fresh: the value that `init` gives.
      owner: path of the new param.
      path: of the leaf of the state; it ends in owner.
      taken: where the param comes from.
      old: the leaves of the old state by path.
    """
    before = path[: len(path) - len(owner)]
    value = old.get(before + taken.source)
    if value is None or (taken.refitted and field_of(before) not in _AVERAGES):
        return None
    if jnp.shape(value) == taken.shape:
        value = _cut(value, taken.axes)
    return value if jnp.shape(value) == jnp.shape(fresh) else None


def _cut(value: Any, axes: Mapping[int, Any]) -> Any:
    for axis, indices in axes.items():
        value = jnp.take(value, indices, axis=axis)
    return value
