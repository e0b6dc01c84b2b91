"""Which slopes of a tree are those of single hidden units.

A slope of a site is a scalar; with layers stacked by `nn.scan` it has their axes, those of the
kernel before the activation but for its last two. A slope for each unit has one more axis, of the
kernel's width. The shapes of the slope and of that kernel therefore tell them apart.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.tree.paths import leaf_path, slope_paths

Shape = tuple[int, ...]


def of_units(slope: Shape, kernel: Shape) -> bool:
    """Returns whether a slope of this shape is one for each unit of the kernel before it."""
    return tuple(slope) == (*kernel[:-2], kernel[-1])


def units_by_path(tree: Any) -> dict[str, int]:
    """Returns for each slope, by leaf path, of how many units it has its own; 1 for a site's.

    A slope next to no kernel of the tree, as where an optimizer masks the kernels, counts as that
    of a site.

    Args:
      tree: params, variables, or a tree of their structure; anything with shapes.
    """
    shapes, units = _shapes(tree), {}
    found = slope_paths(shapes)
    for path in (path for path in shapes if path in found):
        shape, named = shapes[path], _kernel_before(path)
        near = [named] if named in shapes else _kernels_beside(path, shapes) if shape else []
        is_unit = any(of_units(shape, shapes[kernel]) for kernel in near)
        units[path] = shape[-1] if is_unit else 1
    return units


def units_like(tree: Any) -> Any:
    """Returns a tree with what `units_by_path` says at slopes, and 1 at all other leaves."""
    units = units_by_path(tree)
    return jax.tree_util.tree_map_with_path(lambda keys, _: units.get(leaf_path(keys), 1), tree)


def with_unit_slopes(tree: Any) -> Any:
    """Returns a tree in which each site has a slope for each hidden unit, of the site's value.

    The model computes what it did, since modules take the form of slopes from the params. Sites of
    `CollapsibleMLP` and `CollapsibleGLU` get them; other sites stay unchanged.

    Args:
      tree: params or variables; arrays or ShapeDtypeStructs.

    Example:
      >>> import jax.numpy as jnp, lcjax
      >>> params = {"dense_0": {"kernel": jnp.ones((2, 3))}, "act_0": {"slope": jnp.zeros(())}}
      >>> lcjax.with_unit_slopes(params)["act_0"]["slope"].shape
      (3,)
    """
    shapes = _shapes(tree)
    found = slope_paths(shapes)

    def at(keys: Any, leaf: Any) -> Any:
        path = leaf_path(keys)
        kernel = shapes.get(_kernel_before(path), ()) if path in found else ()
        if not kernel or kernel[:-2] != shapes[path]:
            return leaf
        shape = (*kernel[:-2], kernel[-1])
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, leaf.dtype)
        return jnp.broadcast_to(jnp.asarray(leaf)[..., None], shape)

    return jax.tree_util.tree_map_with_path(at, tree)


def _shapes(tree: Any) -> dict[str, Shape]:
    """Returns the shapes of all leaves by path."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_path(keys): tuple(np.shape(leaf)) for keys, leaf in flat}


def _kernel_before(slope: str) -> str:
    """Returns the path of the kernel before a site; "" where the site's name does not say it."""
    parent, name = _split(slope)
    dense = "up" if name == "act" else f"dense_{name[4:]}" if name.startswith("act_") else ""
    return f"{parent}{dense}/kernel" if dense else ""


def _kernels_beside(slope: str, shapes: Mapping[str, Shape]) -> list[str]:
    """Returns the paths of the kernels of the modules next to a site's."""
    parent, _ = _split(slope)
    others = (path.removeprefix(parent).split("/") for path in shapes if path.startswith(parent))
    return [
        parent + "/".join(names) for names in others if len(names) == 2 and names[1] == "kernel"
    ]


def _split(slope: str) -> tuple[str, str]:
    """Returns the prefix of the modules next to a site, "" at the root, and the site's name."""
    parent, slash, name = slope.rpartition("/")[0].rpartition("/")
    return parent + slash, name
