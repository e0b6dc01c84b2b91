"""From a module with slopes and fused sites back to the deep model and its tree."""

from collections.abc import Collection, Mapping
from typing import Any

from flax import nnx
from jax.tree_util import DictKey

from lcjax.errors import CollapseError
from lcjax.nnx.calls.owners import first_kernel
from lcjax.nnx.functional import Path
from lcjax.nnx.modules import is_rewritten, restore_deep
from lcjax.nnx.rewritten import ATTRIBUTE, Rewritten
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.params.keys import site_of_kernel
from lcjax.transform.params.tree import FunctionParams, remove_leaves
from lcjax.tree.encoding import encode
from lcjax.tree.fused_key import FusedKey


def take_apart(
    model: nnx.Module, keep: Collection[Path] = ()
) -> tuple[nnx.Module, dict[Path, Rewritten]]:
    """Returns a deep copy of a model, and what lcjax has added to its modules, by their paths.

    Params that were removed are ShapeDtypeStructs in the copy. The model is not changed.

    Args:
      model: the model.
      keep: the paths of modules to leave as they are.
    """
    deep, found = nnx.clone(model), {}
    for path, node in [*nnx.iter_graph(deep)]:
        if is_rewritten(node) and path not in keep:
            found[path] = getattr(node, ATTRIBUTE)
            restore_deep(node)
    return deep, found


def not_run(call: BoundCall, added: Mapping[Path, Rewritten]) -> set[Path]:
    """Returns the paths of the modules of which a call runs no site."""
    return {
        path
        for path, rewritten in added.items()
        if set(rewritten.sites).isdisjoint(_site_names(call, path))
    }


def params_of_model(call: BoundCall, added: Mapping[Path, Rewritten]) -> FunctionParams:
    """Returns the tree of a model from what was added to its modules.

    Args:
      call: of the deep model.
      added: what `take_apart` returned.

    Raises:
      CollapseError: a site that this call does not run, of a module of which it runs others.
    """
    slopes: dict[str, Any] = {}
    fused: dict[str, Any] = {}
    for path, rewritten in added.items():
        names = _site_names(call, path)
        slopes |= {_name(names, path, site): s for site, s in rewritten.tree["slopes"].items()}
        for entry in rewritten.entries:
            local = FusedKey.parse(entry.key)
            folder = encode([DictKey(name) for name in path])
            removed = {
                f"{folder}/{leaf}" if folder else leaf: (entry.whole(shape), dtype)
                for leaf, (shape, dtype) in local.removed.items()
            }
            sites = tuple(_name(names, path, site) for site in local.sites)
            fused[str(FusedKey(sites, local.widths, removed, local.units))] = entry.tree
    params = FunctionParams(call.params.model, slopes, fused)
    return FunctionParams(remove_leaves(params.model, params.removed), slopes, fused)


def _site_names(call: BoundCall, folder: Path) -> dict[str, str]:
    """Returns the paths of sites in the model by their paths in a module."""
    names = {}
    for site in call.analysis.sites:
        leaf = first_kernel(call, site)
        if leaf[: len(folder)] == folder:
            names[site_of_kernel([DictKey(name) for name in leaf[len(folder) :]])] = site.path
    return names


def _name(names: dict[str, str], folder: Path, site: str) -> str:
    if site not in names:
        whole = "/".join(map(str, (*folder, site)))
        raise CollapseError(
            f"{whole}: is collapsed or has a slope in this module, and this call does not run it. "
            "Trace the call for which it was collapsed."
        )
    return names[site]
