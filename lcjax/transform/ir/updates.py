"""State that a function writes and returns, of which only what has changed is an output."""

from dataclasses import dataclass
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Update:
    """A value that a function has written in the place of another.

    In what a function returns it says that the new value is an output only if it is another one:
    nested transforms of NNX, such as `nnx.jit` and `nnx.remat`, write all state of a module back.

    Attributes:
      old: the value before.
      new: the value after.
    """

    old: Any
    new: Any


def changed(tree: Any) -> Any:
    """Returns a tree with the new values in the place of updates; None for those that are the old.

    Args:
      tree: what a function returns, of values that are the same object where nothing has changed.
    """

    def settled(node: Any) -> Any:
        if not isinstance(node, Update):
            return node
        return None if node.new is node.old else node.new

    return jax.tree.map(settled, tree, is_leaf=lambda node: isinstance(node, Update))
