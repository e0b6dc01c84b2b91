"""A checkpoint as the params of a function, which is traced with their shapes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lcjax.io.leaves import LeafPath, flatten
from lcjax.io.traced.contents import Contents, paths_of
from lcjax.transform.collapsible import collapsible
from lcjax.transform.params.tree import is_function_tree
from lcjax.transform.traced_call import TracedCall

MODEL = "model"


@dataclass(frozen=True, eq=False)
class TracedSource:
    """A checkpoint and a call of the function whose params it contains.

    Attributes:
      contents: the checkpoint.
      call: its tree has the values of slopes, and the shapes of all other leaves.
      leaves: where the checkpoint has each leaf of the compact tree that is not new: paths below
        the contents' root by path in the tree.
      model: the part `model` of the tree, with what of the checkpoint is no param of the function.
      keeps_slopes: whether sites that stay have their slopes in the compact tree; those that rules
        assume are not.
    """

    contents: Contents
    call: TracedCall
    leaves: Mapping[LeafPath, LeafPath]
    model: Any
    keeps_slopes: bool = True


def function_source(
    contents: Contents, fn: Callable[..., Any], inputs: Sequence[Any]
) -> TracedSource:
    """Returns a checkpoint as the params of a function `fn(params, *inputs)`.

    Args:
      contents: the params, or the tree of `lcjax.collapsible(fn)`.
      fn: the function.
      inputs: example inputs; arrays or ShapeDtypeStructs.

    Raises:
      CollapseError: as `lcjax.CollapsibleFunction.trace`.
    """
    tree = contents.tree()
    if is_function_tree(tree):
        leaves = paths_of(tree)
    else:
        leaves = {(MODEL, *path): path for path in flatten(tree)}
        tree = {MODEL: tree, "slopes": {}, "fused": {}}
    call = collapsible(fn).trace(tree, *inputs)
    return TracedSource(contents, call, leaves, tree[MODEL])
