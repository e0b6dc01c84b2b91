"""From a compact tree of a model to a module."""

from collections.abc import Collection, Sequence
from typing import Any

from flax import nnx

from lcjax.nnx.forms.affine import affine_of
from lcjax.nnx.forms.narrowing import narrow_in_place
from lcjax.nnx.forms.partitions import metadata_of
from lcjax.nnx.functional import Path, as_path, node_at, put
from lcjax.nnx.modules import rewritten_class
from lcjax.nnx.owners import Owner
from lcjax.nnx.rewritten import ATTRIBUTE, Fused, Rewritten, Slope


def deliver(model: nnx.Module, owners: Sequence[Owner]) -> nnx.Module:
    """Returns a new module with what belongs to some of its modules written into them.

    Args:
      model: the deep model; it is not changed.
      owners: the modules that run fused sites or have slopes.
    """
    made = nnx.clone(model)
    added: list[tuple[Owner, Rewritten]] = []
    removed: set[Path] = set()
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
        slopes = {site: Slope(value) for site, value in owner.slopes.items()}
        affine = None if narrowed else affine_of(owner)
        added.append((owner, Rewritten(owner.run.method, slopes, fused, affine)))
        removed |= {(*owner.run.path, *as_path(p)) for part in parts for p in part.key.removed}
    _remove(made, removed)
    for owner, rewritten in added:
        node = node_at(made, owner.run.path)
        node.__class__ = rewritten_class(type(node), owner.run.method)
        setattr(node, ATTRIBUTE, rewritten)
    return made


def _remove(model: nnx.Module, paths: Collection[Path]) -> None:
    """Sets None in every place of some Params, in place."""
    nodes = [*nnx.iter_graph(model)] if paths else []
    removed = {id(node) for path, node in nodes if path in paths}
    for _, node in nodes:
        items: Any = ()
        if isinstance(node, nnx.Pytree):
            items = vars(node).items()
        elif isinstance(node, list):
            items = enumerate(node)
        elif isinstance(node, dict):
            items = node.items()
        for name in [name for name, value in items if id(value) in removed]:
            put(node, name, None)
