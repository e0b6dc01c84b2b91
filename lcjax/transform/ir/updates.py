"""State that a function writes and returns, of which only what has changed is an output."""

from dataclasses import dataclass
from typing import Any

import jax

from lcjax.transform.ir.program import Op, Value


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Update:
    """A value that a function has written in the place of another.

    In what a function returns it says that the new value is an output only if it is another one:
    nested transforms of NNX, such as `nnx.jit`, `nnx.remat` and `nnx.scan`, write all state of a
    module back.

    Attributes:
      old: the value before.
      new: the value after.
    """

    old: Any
    new: Any


def changed(tree: Any) -> Any:
    """Returns a tree with the new values in the place of updates; None for those that are the old.

    Args:
      tree: what a function returns, of the values of a program.
    """

    def settled(node: Any) -> Any:
        if not isinstance(node, Update):
            return node
        return None if _is_same(node.new, node.old) else node.new

    return jax.tree.map(settled, tree, is_leaf=lambda node: isinstance(node, Update))


def _is_same(new: Value, old: Value) -> bool:
    """Returns whether a value is another one, perhaps with its axes moved and moved back."""
    axes = tuple(range(len(new.shape)))  # of the value, in the order of those of the new one
    while new is not old:
        if not isinstance(new.maker, Op) or new.maker.name != "transpose":
            return False
        permutation = new.maker.eqn.params["permutation"]
        axes = tuple(permutation[axis] for axis in axes)
        (new,) = new.maker.ins
    return axes == tuple(range(len(axes)))
