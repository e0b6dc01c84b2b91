"""Moments on a mesh of devices: each device holds a block of their rows."""

import math
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding


def mesh_of(tree: Any) -> Mesh | None:
    """Returns the mesh on which arrays of a tree are; None for a single device."""
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    meshes = (found.mesh for found in shardings if isinstance(found, NamedSharding))
    return next((mesh for mesh in meshes if isinstance(mesh, Mesh) and mesh.size > 1), None)


def in_blocks(tree: Any, mesh: Mesh | None) -> Any:
    """Returns arrays, those of a mesh with their rows divided among its devices.

    Vectors, and matrices whose rows the number of devices does not divide, are on all devices.

    Args:
      tree: arrays that are computed under `jax.jit`.
      mesh: None for a single device.
    """
    if mesh is None:
        return tree
    explicit = AxisType.Explicit in mesh.axis_types
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    names = tuple(name for name, kind in kinds if not explicit or kind == AxisType.Explicit)
    blocks = math.prod(mesh.shape[name] for name in names)
    rows, whole = NamedSharding(mesh, jax.P(names)), NamedSharding(mesh, jax.P())
    placed = jax.tree.map(
        lambda leaf: rows if leaf.ndim == 2 and leaf.shape[0] % blocks == 0 else whole, tree
    )
    place = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
    return place(tree, placed)


def to_host(tree: Any) -> Any:
    """Returns arrays on the host, in every process; one after another."""
    return jax.tree.map(_to_host, tree)


def _to_host(leaf: jax.Array) -> Any:
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return jax.device_get(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)
