"""The modules that run the fused sites of a tree, and those that have slopes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

from lcjax.eqx.collapsed import method_of
from lcjax.eqx.library import equinox as eqx
from lcjax.eqx.places import Path, node_at, split
from lcjax.eqx.recording import MethodCall, Recording, record_calls
from lcjax.errors import CollapseError
from lcjax.transform.lowering.bound_call import BoundCall, bind_call
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.params.tree import FunctionParams
from lcjax.tree.fused_key import FusedKey


@dataclass(eq=False)
class Owner:
    """A module that runs sites.

    Attributes:
      run: the call of it in which the sites were found.
      call: that call as one of a function of the module's arrays.
      calls: all calls of the module.
      is_read: whether a field of the module is read from outside.
      slopes: `{"slope": α}` by site, as the module names it.
      fused: entries by keys with paths inside the module.
      removed: the places in the module of the arrays that were fused.
      stack: sizes of the axes by which the model stacks the module.
    """

    run: MethodCall
    call: BoundCall
    calls: Sequence[MethodCall]
    is_read: bool
    slopes: dict[str, Any] = field(default_factory=dict)
    fused: dict[FusedKey, Any] = field(default_factory=dict)
    stack: tuple[int, ...] = ()

    @property
    def removed(self) -> set[str]:
        """Encoded paths in the module of the arrays that were fused."""
        return {path for key in self.fused for path in key.removed}

    def site(self, kernel: Path) -> MatchedSite | None:
        """Returns the site whose first kernel is at a place in the module."""
        sites = self.call.analysis.sites
        return next((site for site in sites if _kernel(self.call, site) == kernel), None)


def find_owners(
    model: Any,
    call: BoundCall,
    slopes: dict[str, Any],
    fn: Callable[..., Any],
    inputs: Sequence[Any],
) -> list[Owner]:
    """Returns the modules that run the fused sites of a tree, and those that get slopes.

    Each is the innermost one of which a call runs all layers of an entry or site.

    Args:
      model: the deep model.
      call: of the whole model, with the tree.
      slopes: those to keep, by site.
      fn: called as `fn(model, *inputs)`.
      inputs: those of the call.

    Raises:
      CollapseError: layers that no call of one module runs.
    """
    sites = {site.path: site for site in call.analysis.sites}
    pieces: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
        (name, key.sites, tuple(key.removed)) for name, key in call.params.keys.items()
    ]
    pieces += [("", (path,), ()) for path in slopes]
    folders = []
    for _, paths, removed in pieces:
        leaves = [leaf for path in paths for leaf in _kernels(call, sites[path])]
        leaves += [tuple(path.split("/")) for path in removed]
        folders.append(tuple(commonprefix([leaf[:-1] for leaf in leaves])))
    search = _Search(model, folders, fn, inputs)
    for (name, paths, _), folder in zip(pieces, folders, strict=True):
        owner, own = search.owner(folder, [sites[path] for path in paths], call)
        owner.stack = _stack(sites[paths[0]], own[0])
        if name:
            key = _local(call.params.keys[name], owner, own)
            owner.fused[key] = call.params.fused[name]
        else:
            owner.slopes[own[0].path] = slopes[paths[0]]
    return search.used


class _Search:
    """The calls of all modules around some folders."""

    def __init__(
        self, model: Any, folders: Sequence[Path], fn: Callable[..., Any], inputs: Sequence[Any]
    ):
        around = {folder[:end] for folder in folders for end in range(len(folder) + 1)}
        paths = {path for path in around if isinstance(node_at(model, path), eqx.Module)}
        self.recording = record_calls(model, paths, fn, inputs) if folders else Recording()
        self.bound: dict[MethodCall, BoundCall] = {}
        self.used: list[Owner] = []

    def owner(
        self, folder: Path, sites: Sequence[MatchedSite], call: BoundCall
    ) -> tuple[Owner, list[MatchedSite]]:
        """Returns the module that runs some sites, and the sites as it has them."""
        for end in range(len(folder), -1, -1):
            own_calls = [run for run in self.recording.calls if run.path == folder[:end]]
            for run in own_calls:
                used = [owner for owner in self.used if owner.run.path == run.path]
                owner = used[0] if used else self._made(run, own_calls)
                own = [owner.site(_kernel(call, site)[end:]) for site in sites]
                found = [site for site in own if site is not None]
                if len(found) == len(sites):
                    self.used += [] if used else [owner]
                    return owner, found
        raise CollapseError(
            f"{sites[0].path}: no call of one module runs both layers of this pair, so that no "
            "module can be given back. Move the layers and the activation between them into one "
            "module, or collapse the function with lcjax.collapsible."
        )

    def _made(self, run: MethodCall, calls: Sequence[MethodCall]) -> Owner:
        return Owner(run, self._bound(run), calls, run.path in self.recording.read)

    def _bound(self, run: MethodCall) -> BoundCall:
        if run not in self.bound:
            arrays, static = split(run.module)
            fn, params = method_of(static, run.method), FunctionParams(arrays, {}, {})
            self.bound[run] = bind_call(fn, params, run.args, run.kwargs, has_state=False)
        return self.bound[run]


def _local(key: FusedKey, owner: Owner, own: Sequence[MatchedSite]) -> FusedKey:
    """Returns the key of an entry inside its module."""
    folders, outside = len(owner.run.path), len(owner.stack)
    removed = {
        "/".join(path.split("/")[folders:]): (shape[outside:], dtype)
        for path, (shape, dtype) in key.removed.items()
    }
    return FusedKey(tuple(site.path for site in own), key.widths, removed, key.units)


def _stack(whole: MatchedSite, own: MatchedSite) -> tuple[int, ...]:
    return tuple(whole.stack[: len(whole.stack) - len(own.stack)])


def _kernel(call: BoundCall, site: MatchedSite) -> Path:
    """Returns the place of the first kernel of a site."""
    return tuple(call.name_of(site.match.up.leaf).split("/"))


def _kernels(call: BoundCall, site: MatchedSite) -> list[Path]:
    leaves = [dense.leaf for dense in site.products]
    return [tuple(call.name_of(leaf).split("/")) for leaf in leaves if leaf is not None]
