"""The entries of `fused`: the layers that replace neighbouring sites of a function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from flax.core import meta

from lcjax.algebra.fuse import DenseParams
from lcjax.errors import CollapseError
from lcjax.tree.fused_key import FusedKey

Run = tuple[DenseParams, ...]


class NarrowSite(NamedTuple):
    """What an entry has of a site whose activation stays, on k units.

    Attributes:
      gate: the factors of the gate of a gated unit, (d_in, k) together; empty for no gate. One that
        is part of the kernel of the value reads what the last factor of the value reads if it is
        a single Dense, and what the first factor reads otherwise.
      vectors: the fixed values that differ from unit to unit, such as those of a norm, (k,), in the
        order in which the program reads them.
      bypass: affine map of the input of the layer before that is added to the output of the layer
        after: bias, and perhaps kernel; None for no such map.
    """

    gate: Run = ()
    vectors: tuple[Any, ...] = ()
    bypass: DenseParams | None = None


@dataclass(frozen=True, eq=False, repr=False)
class FusedEntry:
    """The layers that replace neighbouring sites, n of which keep units.

    Attributes:
      runs: n + 1 times the factors of one linear map, in forward order; empty where the one pair
        of layers is removed.
      narrow: the n sites between the runs; of a removed pair one, of which only the bypass is left.
    """

    runs: tuple[Run, ...]
    narrow: tuple[NarrowSite, ...] = ()

    @property
    def layers(self) -> list[DenseParams]:
        """Every layer that has a kernel: factors, gates and bypasses."""
        found = [layer for run in self.runs for layer in run]
        others = [each for site in self.narrow for each in (*site.gate, site.bypass)]
        return found + [each for each in others if each is not None and "kernel" in each]

    @property
    def dtype(self) -> Any:
        """The dtype of its last layer."""
        if self.runs:
            return self.runs[-1][-1]["kernel"].dtype
        bypass = self.narrow[0].bypass
        assert bypass is not None
        return bypass["bias"].dtype

    def map(self, fn: Callable[[Any], Any]) -> "FusedEntry":
        """Returns the entry with every array replaced by a function of it."""

        def dense(params: DenseParams | None) -> Any:
            return None if params is None else {name: fn(params[name]) for name in sorted(params)}

        runs = tuple(tuple(map(dense, run)) for run in self.runs)
        narrow = tuple(
            NarrowSite(
                tuple(map(dense, site.gate)), tuple(map(fn, site.vectors)), dense(site.bypass)
            )
            for site in self.narrow
        )
        return FusedEntry(runs, narrow)

    @property
    def tree(self) -> dict[str, Any]:
        """The entry as the tree has it.

        One Dense, or its factors by number; with sites that keep units `layers`, `gates`,
        `vectors` and `bypass` by number, layers and gates in the same way; `bypass` alone where a
        pair is removed.
        """
        if not self.narrow:
            return _run_tree(self.runs[0])
        parts = {
            "layers": {str(i): _run_tree(run) for i, run in enumerate(self.runs)},
            "gates": {str(i): _run_tree(s.gate) for i, s in enumerate(self.narrow) if s.gate},
            "vectors": {
                str(i): {str(j): vector for j, vector in enumerate(s.vectors)}
                for i, s in enumerate(self.narrow)
                if s.vectors
            },
            "bypass": {str(i): dict(s.bypass) for i, s in enumerate(self.narrow) if s.bypass},
        }
        return {name: part for name, part in parts.items() if part}


def read_entry(entry: Mapping[str, Any], name: str, key: FusedKey) -> FusedEntry:
    """Returns an entry of `fused`, unboxed.

    Raises:
      CollapseError: an entry of another form than its key says.
    """
    entry = meta.unbox(entry)
    if not key.units:
        return FusedEntry((_run(entry),))
    runs = tuple(map(_run, _numbered(entry.get("layers", {}))))
    gates, vectors = entry.get("gates", {}), entry.get("vectors", {})
    bypass = entry.get("bypass", {})
    narrow = tuple(
        NarrowSite(_run(gates.get(i, {})), tuple(_numbered(vectors.get(i, {}))), bypass.get(i))
        for i in map(str, range(max(len(key.narrow), 1)))
    )
    expected = 0 if key.removes else len(narrow) + 1
    if len(runs) != expected or (key.removes and narrow[0].bypass is None):
        raise CollapseError(
            f"fused/{name}: got {len(runs)} layers, expected {expected or 'a bypass'} as its key "
            "says. Restore a tree that `collapse` returned."
        )
    return FusedEntry(runs, narrow)


def _run(tree: Mapping[str, Any]) -> Run:
    """Returns the factors of one linear map."""
    return (tree,) if "kernel" in tree else tuple(_numbered(tree))


def _run_tree(run: Run) -> dict[str, Any]:
    """Returns the tree for these factors: the Dense itself if there is one."""
    if len(run) == 1:
        return dict(run[0])
    return {str(i): dict(factor) for i, factor in enumerate(run)}


def _numbered(tree: Mapping[str, Any]) -> list[Any]:
    """Returns the children of a node whose names are numbers, in order."""
    return [tree[name] for name in sorted(tree, key=int)]
