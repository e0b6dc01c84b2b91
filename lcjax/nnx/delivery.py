"""From a compact tree of a model to a module."""

from collections.abc import Iterable, Sequence
from typing import Any

from flax import nnx

from lcjax.nnx.affine import affine_of
from lcjax.nnx.functional import Path, child
from lcjax.nnx.modules import rewritten_class
from lcjax.nnx.narrowing import narrow_in_place
from lcjax.nnx.owners import Owner, as_path
from lcjax.nnx.partitions import metadata_of
from lcjax.nnx.rewritten import ATTRIBUTE, Fused, Rewritten, Slope


def deliver(model: nnx.Module, owners: Sequence[Owner]) -> nnx.Module:
    """Returns a new module with what belongs to some of its modules written into them.

    Args:
      model: the deep model; it is not changed.
      owners: the modules that run fused sites or have slopes.
    """
    made = nnx.clone(model)
    for owner in owners:
        narrowed = narrow_in_place(made, owner)
        parts = [part for part in owner.parts if part not in narrowed]
        if not parts and not owner.slopes:
            continue
        fused = {
            part.key.sites[0].replace("/", "."): Fused(
                str(part.key), part.stacked, part.entry, metadata_of(made, owner, part)
            )
            for part in parts
        }
        removed = [(*owner.run.path, *as_path(p)) for part in parts for p in part.key.removed]
        _remove(made, removed)
        slopes = {site: Slope(value) for site, value in owner.slopes.items()}
        node: Any = made
        for name in owner.run.path:
            node = child(node, name)
        affine = affine_of(owner) if not narrowed else None
        node.__class__ = rewritten_class(type(node), owner.run.method)
        setattr(node, ATTRIBUTE, Rewritten(owner.run.method, slopes, fused, affine))
    return made


def _remove(model: nnx.Module, paths: Iterable[Path]) -> None:
    """Sets None in every place of some Params, in place."""
    nodes = [*nnx.iter_graph(model)]
    removed = {id(node) for path, node in nodes if path in set(paths)}
    for _, node in nodes:
        if isinstance(node, nnx.Pytree):
            places = {n: v for n, v in vars(node).items() if id(v) in removed}
        elif isinstance(node, list):
            places = {}
            for i, value in enumerate(node):
                node[i] = None if id(value) in removed else value
        else:
            places = {}
        for name in places:
            setattr(node, name, None)
