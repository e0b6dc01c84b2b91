"""Splits layers that `nn.scan` stacked, so that some of them can be collapsed alone."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict, freeze, meta
from jax.sharding import NamedSharding, PartitionSpec

from lcjax.errors import CollapseError
from lcjax.structure.chains.chain import join
from lcjax.tree.paths import leaves_by_path


def unstack_layers(
    variables: Mapping[str, Any], path: str, *, name: str | None = None, axis: int | None = None
) -> Any:
    """Returns the tree with the layers stacked at `path` as single ones: `path_0`, `path_1`, ...

    The tree then runs in the module that has a plain loop, with modules of these names, where the
    other has `nn.scan`; the values are the same. In every collection that holds it, each leaf
    under the path gives up the axis that counts the layers, as a sharding does that axis's
    partition, and a partitioned box its name. The input is not changed, leaves that are not under
    the path are shared with it, and it works under `jax.jit`.

    Args:
      variables: nested dicts: params alone, or variables with "params" and whatever else; plain or
        FrozenDict, leaves boxed or not; arrays or ShapeDtypeStructs.
      path: of the stacked module inside params, such as "encoder/layers".
      name: of the layers, `name_0`, `name_1`, ...; None takes the path's last part.
      axis: that counts the layers in every leaf, as the `variable_axes` of `nn.scan` say; None
        takes the first, where the shapes leave no doubt that it does.

    Raises:
      CollapseError: nothing is at the path; a leaf without that axis, or of another length than
        the others'; ambiguous shapes; a name that exists.
      TypeError: a tree that is not nested dicts.

    Example:
      >>> import numpy as np, lcjax
      >>> stacked = {"layers": {"kernel": np.ones((2, 3, 3))}, "head": {"bias": np.ones(4)}}
      >>> sorted(lcjax.unstack_layers(stacked, "layers"))
      ['head', 'layers_0', 'layers_1']
    """
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"unstack_layers takes nested dicts (params or variables), got "
            f"{type(variables).__name__}."
        )
    *parents, last = path.split("/")
    if "params" in variables:
        trees = {kind: tree for kind, tree in variables.items() if isinstance(tree, Mapping)}
        stacks = {kind: _stack(tree, path) for kind, tree in trees.items()}
    else:
        stacks = {"params": _stack(variables, path)}
    if stacks["params"] is None:
        raise CollapseError(
            f"{path!r} names no module of stacked layers in params. {_nearest(variables, path)}"
        )
    stacks = {kind: stack for kind, stack in stacks.items() if stack is not None}
    count = _count(stacks, path, axis)
    unstacked = dict(variables)
    for kind, stack in stacks.items():
        layers = {f"{name or last}_{i}": _layer(stack, i, axis or 0) for i in range(count)}
        if "params" in variables:
            unstacked[kind] = _put(variables[kind], parents, last, layers, path)
        else:
            unstacked = _put(variables, parents, last, layers, path)
    return freeze(unstacked) if isinstance(variables, FrozenDict) else unstacked


def _stack(tree: Any, path: str) -> Mapping[str, Any] | None:
    for part in path.split("/"):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) and jax.tree.leaves(tree) else None


def _nearest(variables: Mapping[str, Any], path: str) -> str:
    """Returns a sentence on the children where the path leaves the tree."""
    node, walked = variables.get("params", variables), ""
    for part in path.split("/"):
        if not isinstance(node.get(part), Mapping):
            break
        node, walked = node[part], join(walked, part)
    children = ", ".join(sorted(map(str, node))) or "nothing"
    return f"{walked or 'params'} has {children}."


def _count(stacks: Mapping[str, Any], path: str, axis: int | None) -> int:
    """Returns how many layers are stacked.

    Raises:
      CollapseError: leaves without the axis, or of different lengths, or of an ambiguous axis.
    """
    shapes = {
        join(join(kind, path), leaf_name): tuple(leaf.shape)
        for kind, stack in stacks.items()
        for leaf_name, leaf in leaves_by_path(meta.unbox(stack)).items()
    }
    along = 0 if axis is None else axis
    for leaf_name, shape in shapes.items():
        if not -len(shape) <= along < len(shape):
            raise CollapseError(
                f"{leaf_name}: shape {shape} has no axis {along}, so these layers are not stacked "
                "along it. Name the module that nn.scan made, and its variable_axes as axis=."
            )
    (first, shape), *others = shapes.items()
    count = shape[along]
    for leaf_name, other in others:
        if other[along] != count:
            raise CollapseError(
                f"{leaf_name}: {other[along]} layers on axis {along}, but {first} has {count}: "
                "expected one length in every leaf. Name the module that it made, and "
                "its variable_axes as axis=."
            )
    wide = [shape for shape in shapes.values() if len(shape) > 1]
    if axis is None and wide and all(shape[-1] == count for shape in wide):
        raise CollapseError(
            f"{path}: every leaf has {count} on its first axis and on its last, so either may "
            "count the layers. Give axis=0 or axis=-1."
        )
    return count


def _layer(stack: Any, i: int, axis: int) -> Any:
    """Returns one layer of a stack; a box is kept, without its name for the axis."""

    def unnamed(box: Any) -> Any:
        at = axis % meta.unbox(box).ndim
        names = tuple(getattr(box, "names", ()))
        return box.remove_axis(at, {meta.PARTITION_NAME: names[at] if names else None})

    leaves = meta.map_axis_meta(unnamed, dict(stack))
    return jax.tree.map(lambda leaf: _index(leaf, i, axis % max(leaf.ndim, 1)), leaves)


def _index(leaf: Any, i: int, axis: int) -> Any:
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        at = (slice(None),) * axis
        return leaf[(*at, i)] if isinstance(leaf, jax.Array) else np.asarray(leaf[(*at, i)])
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        spec = (*sharding.spec, *[None] * (leaf.ndim - len(sharding.spec)))
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec[:axis], *spec[axis + 1 :]))
    shape = (*leaf.shape[:axis], *leaf.shape[axis + 1 :])
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)


def _put(
    tree: Mapping[str, Any], parents: list[str], last: str, layers: dict[str, Any], path: str
) -> dict[str, Any]:
    """Returns a copy of a tree, as deep as needed, that holds single layers for the stack."""
    node = dict(tree)
    if parents:
        node[parents[0]] = _put(tree[parents[0]], parents[1:], last, layers, path)
        return node
    del node[last]
    for name in layers:
        if name in node:
            raise CollapseError(
                f"{path}: the name {name} of a single layer exists already. Give another name=."
            )
    return node | layers
