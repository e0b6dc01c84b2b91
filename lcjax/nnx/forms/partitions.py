"""The partition metadata of Params that replace others."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax.sharding import PartitionSpec

from lcjax.algebra.sharding import fused_spec
from lcjax.nnx.calls.owners import Owner, Part
from lcjax.nnx.functional import as_path, node_at
from lcjax.transform.analysis.dense import DenseOp

_KEPT = ("mesh", "sharding_rules")


def metadata_of(model: nnx.Module, owner: Owner, part: Part) -> dict[str, dict[str, Any]]:
    """Returns the metadata of the new Params of an entry, by their paths in it.

    A kernel takes the names of the input axes of the first kernel that it replaces, and that of the
    output axis of the last; a bias the latter. Of factors each has one of the two.

    Args:
      model: the model, with all its Params.
      owner: the module that the entry belongs to.
      part: the entry.
    """
    sites = {site.path: site for site in owner.call.analysis.sites}
    denses = [sites[part.key.sites[0]].match.up]
    denses += [sites[path].match.down for path in part.key.sites]
    first, last = (_kernel(model, owner, denses[i]) for i in (0, -1))
    if first is None or last is None:
        return {}
    whole = tuple(fused_spec(_spec(first), _spec(last), first.get_value().ndim))
    whole = _moved(whole, part.axis, 0)
    kept = {name: first.get_metadata(name) for name in _KEPT if first.has_metadata(name)}
    found: dict[str, tuple[Any, ...]] = {}
    if "kernel" in part.entry:
        found |= _dense("", whole, part.entry)
    elif "layers" not in part.entry and "bypass" not in part.entry:
        names = sorted(part.entry, key=int)
        found |= _dense(f"{names[0]}/", (*whole[:-1], None), part.entry[names[0]])
        end = (*[None] * (len(whole) - 1), whole[-1])
        found |= _dense(f"{names[-1]}/", end, part.entry[names[-1]])
    return {
        path: {**kept, "out_sharding": _moved(spec, 0, part.axis)} for path, spec in found.items()
    }


def _moved(spec: Sequence[Any], start: int, end: int) -> tuple[Any, ...]:
    names = [*spec]
    names.insert(end, names.pop(start))
    return tuple(names)


def _dense(prefix: str, spec: Sequence[Any], layer: Any) -> dict[str, tuple[Any, ...]]:
    specs = {"kernel": tuple(spec), "bias": (*spec[:-2], spec[-1])}
    return {f"{prefix}{name}": specs[name] for name in layer}


def _kernel(model: nnx.Module, owner: Owner, dense: DenseOp) -> Any:
    """Returns the Param that is a kernel, if it is a matrix with named axes."""
    path = as_path(owner.call.name_of(dense.leaf))
    variable = node_at(model, (*owner.run.path, *path))
    named = variable.get_metadata("out_sharding", None) is not None
    return variable if named and len(dense.kernel.shape) == 2 else None


def _spec(variable: Any) -> PartitionSpec:
    return PartitionSpec(*variable.get_metadata("out_sharding"))
