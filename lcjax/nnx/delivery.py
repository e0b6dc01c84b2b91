"""From a compact tree of a model to a module."""

from collections.abc import Collection, Sequence
from typing import Any

from flax import nnx

from lcjax.errors import CollapseError
from lcjax.nnx.calls.owners import Owner
from lcjax.nnx.forms.affine import affine_of
from lcjax.nnx.forms.narrowing import narrow_in_place
from lcjax.nnx.forms.partitions import metadata_of
from lcjax.nnx.functional import Path, as_path, node_at, put
from lcjax.nnx.modules import rewritten_class
from lcjax.nnx.rewritten import ATTRIBUTE, Fused, Rewritten, Slope


def deliver(model: nnx.Module, owners: Sequence[Owner]) -> nnx.Module:
    """Returns a new module with what belongs to some of its modules written into them.

    Args:
      model: the deep model; it is not changed.
      owners: the modules that run fused sites or have slopes.

    Raises:
      CollapseError: a Param to be replaced that the model also has in another place.
    """
    made = nnx.clone(model)
    _check_aliases(made, owners)
    added: list[tuple[Owner, Rewritten]] = []
    removed: set[Path] = set()
    for owner in owners:
        narrowed = narrow_in_place(made, owner)
        parts = [part for part in owner.parts if part not in narrowed]
        if not parts and not owner.slopes:
            continue
        fused = {
            part.key.sites[0].replace("/", "."): Fused(
                str(part.key), part.stacked, part.entry, metadata_of(made, owner, part), part.axis
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


def _check_aliases(model: nnx.Module, owners: Sequence[Owner]) -> None:
    """Raises CollapseError where other code may use a Param that is removed or gets narrower."""
    places: dict[int, list[Path]] = {}
    for folder, node in nnx.iter_graph(model) if any(owner.parts for owner in owners) else ():
        for name, value in _items(node):
            if isinstance(value, nnx.Variable):
                places.setdefault(id(value), []).append((*folder, name))
    for owner in owners:
        for path in (path for part in owner.parts for path in part.key.removed):
            found = places[id(node_at(model, (*owner.run.path, *as_path(path))))]
            if len(found) > 1:
                first, other = ("/".join(map(str, each)) for each in found[:2])
                raise CollapseError(
                    f"{first}: is the same Param as {other}, so that collapsing its site would "
                    "change both. Give each its own Param, or leave the site out with sites=."
                )


def _items(node: Any) -> list[tuple[Any, Any]]:
    """Returns what a node of a module's graph contains, by name."""
    if isinstance(node, nnx.Pytree):
        return [*vars(node).items()]
    if isinstance(node, list):
        return [*enumerate(node)]
    return [*node.items()] if isinstance(node, dict) else []


def _remove(model: nnx.Module, paths: Collection[Path]) -> None:
    """Sets None in the place of some Params."""
    for path in paths:
        put(node_at(model, path[:-1]), path[-1], None)
