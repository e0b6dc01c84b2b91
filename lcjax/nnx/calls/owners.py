"""Which module runs a site, and what of a compact tree belongs to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flax import nnx

from lcjax.errors import CollapseError
from lcjax.nnx.calls.recording import MethodCall, is_callable_module
from lcjax.nnx.functional import Path, as_path, module_function, node_at
from lcjax.transform.analysis.dense import root
from lcjax.transform.ir.program import Value
from lcjax.transform.lowering.bound_call import BoundCall, bind_call
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.params.tree import FunctionParams
from lcjax.tree.fused_key import FusedKey


@dataclass(frozen=True, eq=False)
class Part:
    """An entry of `fused`, with the names that it has in its module.

    Attributes:
      name: of the entry in the tree of the whole model.
      key: the key that it has in the module.
      entry: its arrays.
      stacked: number of layers axes of scans that are inside the method.
      axis: where the model's Params have the layers axis of a scan outside of the method.
    """

    name: str
    key: FusedKey
    entry: Mapping[str, Any]
    stacked: int
    axis: int = 0


@dataclass(eq=False)
class Owner:
    """A module whose method runs some sites.

    Attributes:
      run: the call of the method.
      call: the same, traced as a function of the module's Params.
      parts: the entries of `fused` that belong to it.
      slopes: those that belong to it, by the path of the site in the module.
    """

    run: MethodCall
    call: BoundCall
    parts: list[Part] = field(default_factory=list)
    slopes: dict[str, Any] = field(default_factory=dict)

    def site(self, leaf: Path) -> MatchedSite | None:
        """Returns the site whose first kernel is the Param at a path in the module."""
        return next(
            (site for site in self.call.analysis.sites if first_kernel(self.call, site) == leaf),
            None,
        )


def find_owners(model: nnx.Module, call: BoundCall, calls: Sequence[MethodCall]) -> list[Owner]:
    """Returns the modules that run the fused sites of a tree, and those with slopes.

    Each is the innermost module of which one method runs all layers of an entry.

    Args:
      model: the deep model.
      call: of the model, with the tree.
      calls: of the methods of its modules, that the call makes.

    Raises:
      CollapseError: layers that no method of one module runs.
    """
    sites = {site.path: site for site in call.analysis.sites}
    pieces = [(name, key.sites, key.removed) for name, key in call.params.keys.items()]
    pieces += [("", (path,), {}) for path in call.params.slopes]
    leaves = {
        (name, paths): [
            *(leaf for path in paths for leaf in _kernels(call, sites[path])),
            *(as_path(path) for path in removed),
        ]
        for name, paths, removed in pieces
    }
    search = _Search(model, calls)
    for (name, paths), of_piece in leaves.items():
        owner, own = search.owner(of_piece, [sites[path] for path in paths], call)
        if name:
            owner.parts.append(_part(call, name, owner, own, sites[paths[0]]))
        else:
            owner.slopes[own[0].path] = call.params.slopes[paths[0]]["slope"]
    return search.used


def first_kernel(call: BoundCall, site: MatchedSite) -> Path:
    """Returns the path of the Param that is the first kernel of a site."""
    return as_path(call.name_of(site.match.up.leaf))


class _Search:
    """A search for the modules that run sites, from the innermost around their Params outwards."""

    def __init__(self, model: nnx.Module, calls: Sequence[MethodCall]):
        self._model = model
        self._calls: dict[Path, list[MethodCall]] = {}
        for call in calls:
            self._calls.setdefault(call.path, []).append(call)
        self._owners: dict[MethodCall, Owner] = {}
        self.used: list[Owner] = []

    def owner(
        self, leaves: Sequence[Path], sites: Sequence[MatchedSite], call: BoundCall
    ) -> tuple[Owner, list[MatchedSite]]:
        """Returns the module that runs some sites, and the sites as it has them."""
        for path in self._modules_around(_common(leaves)):
            for run in self._calls.get(path, []):
                if run not in self._owners:
                    self._owners[run] = traced_owner(run)
                owner = self._owners[run]
                own = [owner.site(first_kernel(call, site)[len(path) :]) for site in sites]
                found = [site for site in own if site is not None]
                if len(found) == len(sites):
                    self._use(owner, sites[0].path)
                    return owner, found
        raise CollapseError(
            f"{sites[0].path}: no method of one module runs both layers of this pair, so that no "
            "module can be given back. Move the layers between which the activation is into one "
            "module, or collapse the function with lcjax.collapsible."
        )

    def _modules_around(self, folder: Path) -> list[Path]:
        """Returns the paths of the modules around a folder, the innermost first; the root last."""
        paths = [folder[:end] for end in range(len(folder), -1, -1)]
        nodes = {path: node_at(self._model, path) for path in paths}
        return [path for path, node in nodes.items() if is_callable_module(node)]

    def _use(self, owner: Owner, site: str) -> None:
        other = [each for each in self.used if each.run.path == owner.run.path]
        if other and other[0] is not owner:
            raise CollapseError(
                f"{site}: is run by `{owner.run.method}`, other sites of the same module by "
                f"`{other[0].run.method}`. Collapse the sites of one method."
            )
        if not other:
            self.used.append(owner)


def traced_owner(run: MethodCall) -> Owner:
    """Returns the module of a call, with the call traced."""
    method = getattr(type(run.module), run.method)
    call = module_function(run.module, method, run.args, run.kwargs)
    params = FunctionParams(call.params, {}, {})
    args = (call.states, *call.args)
    return Owner(run, bind_call(call.fn, params, args, call.kwargs, has_state=True))


def _part(
    call: BoundCall, name: str, owner: Owner, own: Sequence[MatchedSite], first: MatchedSite
) -> Part:
    key, folders = call.params.keys[name], len(owner.run.path)
    outside = len(first.stack) - len(own[0].stack)
    removed, pairs = {}, []
    for path, (shape, dtype) in key.removed.items():
        local = "/".join(path.split("/")[folders:])
        inside = tuple(node_at(owner.run.module, as_path(local)).get_value().shape)
        removed[local] = inside, dtype
        pairs.append((tuple(shape), inside))
    local = FusedKey(tuple(site.path for site in own), key.widths, removed, key.units)
    axis = _layers_axis(pairs, first.match.up.kernel) if outside == 1 else 0
    return Part(name, local, call.params.fused[name], len(own[0].stack), axis)


def _layers_axis(pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], kernel: Value) -> int:
    """Returns which axis of some shapes the others lack.

    Args:
      pairs: shapes with and without the axis.
      kernel: a layer in the scan, which decides where several axes fit.
    """
    rank = min((len(shape) for shape, _ in pairs), default=0)
    fits = [i for i in range(rank) if all(s[:i] + s[i + 1 :] == one for s, one in pairs)]
    if len(fits) < 2:
        return fits[0] if fits else 0
    stacked, axis = root(kernel)[0].layer_of, 0
    for op in reversed(root(stacked)[1] if stacked else []):
        axis = op.eqn.params["permutation"][axis] if op.name == "transpose" else axis
    return axis if axis in fits else fits[0]


def _kernels(call: BoundCall, site: MatchedSite) -> list[Path]:
    leaves = [dense.leaf for dense in site.products]
    return [as_path(call.name_of(leaf)) for leaf in leaves if leaf is not None]


def _common(paths: Sequence[Path]) -> Path:
    """Returns the path of the innermost folder around some Params."""
    folders = [path[:-1] for path in paths]
    length = min(map(len, folders))
    while len({folder[:length] for folder in folders}) > 1:
        length -= 1
    return folders[0][:length]
