"""Shardings on a mesh with the axes data, fsdp and tensor.

The current mesh is that of `jax.set_mesh`; without one, arrays stay where they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcjax.structure.chains.chain import join
from lcjax.structure.chains.find import find_chains
from lcjax.tree.paths import in_params, leaf_path

BATCH = PartitionSpec(("data", "fsdp"))


def current_mesh() -> Mesh | None:
    """Returns the current mesh; None if there is none."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else mesh


def batch_parts(mesh: Mesh | None) -> int:
    """Returns the number of shards of a batch on a mesh."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def shard_batch(tree: Any) -> Any:
    """Constrains arrays to be sharded along their first axis over data and fsdp; call under jit."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, BATCH), tree)


@contextmanager
def constrain_activations() -> Iterator[None]:
    """Within it, activations of Flax modules are sharded along the batch axis.

    Otherwise XLA may shard activations over fsdp as the weights are, and gather those of the whole
    batch on every device. Communication then grows with the batch instead of the weights.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]

    def constrain(run: Any, args: Any, kwargs: Any, _: Any) -> Any:
        out = run(*args, **kwargs)
        if not args or not _is_of_batch(args[0], out) or out.shape[0] % parts:
            return out
        rest = [PartitionSpec.UNCONSTRAINED] * (out.ndim - 1)
        return jax.lax.with_sharding_constraint(out, PartitionSpec(*BATCH, *rest))

    with nn.intercept_methods(constrain) if parts > 1 else nullcontext():
        yield


def _is_of_batch(given: Any, out: Any) -> bool:
    """Returns whether both are arrays of rank 2 or more with the same first axis."""
    both = isinstance(given, jax.Array) and isinstance(out, jax.Array)
    return both and min(given.ndim, out.ndim) > 1 and given.shape[0] == out.shape[0]


def replicate(tree: Any) -> Any:
    """Returns arrays replicated on every device."""
    mesh = current_mesh()
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, PartitionSpec()))


def local_rows(batch_size: int) -> np.ndarray:
    """Returns the indices of the batch rows that this process provides, ascending."""
    mesh = current_mesh()
    if mesh is None:
        return np.arange(batch_size)
    places = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,))
    return np.unique([np.arange(batch_size)[place] for place in places.values()])


def make_global_batch(tree: Any, rows: np.ndarray, batch_size: int, *, axis: int) -> Any:
    """Returns global arrays of a batch of which every process provides its own rows.

    Args:
      tree: arrays with this process's rows along an axis.
      rows: their indices in the batch, from `local_rows`.
      batch_size: global batch size.
      axis: the axis of the rows.
    """
    mesh = current_mesh()
    if mesh is None:
        return jax.device_put(tree)
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, *BATCH))

    def to_global(local: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            asked = np.arange(batch_size)[index[axis]]
            return local.take(np.searchsorted(rows, asked), axis)

        shape = (*local.shape[:axis], batch_size, *local.shape[axis + 1 :])
        return jax.make_array_from_callback(shape, sharding, shard)

    return jax.tree.map(to_global, tree)


def place(variables: Any) -> Any:
    """Returns params or variables with the shardings of `shardings` on the current mesh."""
    mesh = current_mesh()
    return variables if mesh is None else jax.device_put(variables, shardings(variables, mesh))


def shardings(variables: Any, mesh: Mesh) -> Any:
    """Returns the sharding of every leaf of params or variables.

    Of a pair of dense layers the first kernel is sharded by columns over tensor and the second by
    rows (Megatron: Shoeybi et al. 2019, arXiv 1909.08053, section 3); every array is sharded over
    fsdp along its largest divisible axis.

    Args:
      variables: params or variables; arrays or ShapeDtypeStructs.
      mesh: with the axes data, fsdp and tensor.
    """
    cuts = dict(_tensor_cuts(variables["params"] if "params" in variables else variables))

    def sharding(keys: Any, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, _spec(leaf.shape, cuts.get(in_params(leaf_path(keys))), mesh))

    return jax.tree_util.tree_map_with_path(sharding, variables)


def optimizer_shardings(
    tx: optax.GradientTransformation, opt_state: Any, params: Any, mesh: Mesh
) -> Any:
    """Returns the sharding of every leaf of an optimizer's state: that of its param, if any.

    Args:
      tx: the optimizer.
      opt_state: its state; arrays or ShapeDtypeStructs.
      params: of the model; likewise.
      mesh: with the axes data, fsdp and tensor.
    """
    replicated = NamedSharding(mesh, PartitionSpec())

    def like_param(leaf: Any, param: Any, sharding: NamedSharding) -> Any:
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        return sharding if leaf.shape == param.shape else replicated

    return optax.tree_utils.tree_map_params(
        tx,
        like_param,
        opt_state,
        params,
        shardings(params, mesh),
        transform_non_params=lambda _: replicated,
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )


def _tensor_cuts(params: Any) -> Iterator[tuple[str, int]]:
    """Yields the path of every leaf that is sharded over tensor, and along which axis."""
    for chain in find_chains(params):
        taken: set[float] = set()
        for i in chain.acts:
            if i in taken or i not in chain.denses or not any(j > i for j in chain.denses):
                continue
            second = chain.after(i)
            taken |= {i, second}
            first = [chain.dense_name(i)] + ["gate"] * (chain.gate is not None)
            for name in first:
                yield join(chain.path, f"{name}/kernel"), -1
                yield join(chain.path, f"{name}/bias"), -1
            yield join(chain.path, f"{chain.dense_name(second)}/kernel"), -2


def _spec(shape: tuple[int, ...], cut: int | None, mesh: Mesh) -> PartitionSpec:
    axes: list[str | None] = [None] * len(shape)
    if cut is not None and mesh.shape["tensor"] > 1 and shape[cut] % mesh.shape["tensor"] == 0:
        axes[cut] = "tensor"
    parts = mesh.shape["fsdp"]
    free = [i for i, size in enumerate(shape) if axes[i] is None and size % parts == 0]
    if parts > 1 and free:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*axes)
