"""Checkpoints read and collapsed leaf by leaf, so that they need not fit into memory."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lcjax.calibration.fits import Exact
from lcjax.errors import CollapseError
from lcjax.io.claims import check_free, claimed
from lcjax.io.containers import Containers, as_stored, assemble, containers
from lcjax.io.leaves import Array, LeafPath, flatten, joined
from lcjax.io.loading import fits_jax, load
from lcjax.io.locations import PathLike, absolute, orbax_context
from lcjax.io.manifest import check_names, entry, seal
from lcjax.io.opening import Opened, opened
from lcjax.io.verifying import verify
from lcjax.structure.chains import Chain
from lcjax.structure.choice import SiteSelector
from lcjax.structure.params_tree import ParamsTree
from lcjax.structure.sites import Sites
from lcjax.surgery.collapse import collapse, collapse_model
from lcjax.surgery.report import CollapseReport
from lcjax.tree.paths import slope_paths

_AT_ONCE = 2**26  # bytes of leaves that are read, and written, together


def collapse_checkpoint(
    source: PathLike, target: PathLike, sites: SiteSelector = None, *, max_gap: float = 0.05
) -> CollapseReport:
    """Writes the checkpoint that `save` would write of the collapsed tree; returns the report.

    It is bit for bit the result of `collapse(restore(source), sites, Exact(max_gap=max_gap))`, with
    the source's metadata, but one chain of Dense layers is in memory at a time: a checkpoint may be
    larger than memory. Every leaf is verified when it is read. The target is complete or not there
    at all: until the end it is in `target.lcjax-unfinished`, which `restore` refuses, and which
    the next attempt takes over. In one process, on its default device.

    Args:
      source: a checkpoint of `save`; one of orbax, which has no checksums, works too.
      target: the directory to make, with its parents; as in `save`.
      sites: paths, globs, Sites or a Plan; None takes every site within `max_gap`.
      max_gap: largest accepted gap `|1 − α|`, at least 0.

    Raises:
      FileNotFoundError: there is nothing at source.
      FileExistsError: there is something at target, or another is writing it: nothing is ever
        overwritten.
      CheckpointError: source is no checkpoint, or damaged.
      CollapseError: as `collapse`, or no site is within `max_gap`.
      ValueError: a `max_gap` out of range.
    """
    fit = Exact(max_gap=max_gap)
    target = absolute(target)
    check_free(target)
    read = opened(source)
    model = ParamsTree(outline(read), caller="collapse_checkpoint")
    expected, report = collapse_model(model, sites, fit)
    if not report.collapsed:
        raise CollapseError(f"{read.path}: nothing to collapse: {_why_none(model.sites, max_gap)}.")
    check_names({path: leaf for path, leaf in flatten(expected).items() if 0 not in leaf.shape})

    def pieces() -> Iterator[dict[LeafPath, Array]]:
        left = dict(read.manifest["leaves"])
        for chain in model.chains:
            sites = [site for site in chain.sites if site in report.collapsed]
            if sites:
                paths = [p for p in left if _in_chain(p, chain, "params" in model.variables)]
                leaves = load(read, {path: left.pop(path) for path in paths}, {}, partial=True)
                leaves = {p: jax.device_put(a) if fits_jax(a) else a for p, a in leaves.items()}
                compact, _ = collapse(_part(leaves, read), sites, Exact(max_gap=np.inf))
                yield {path: np.asarray(leaf) for path, leaf in flatten(compact).items()}
        for paths in _gathered(left):
            yield load(read, {path: left[path] for path in paths}, {}, partial=True)

    write_pieces(target, pieces(), expected, read.manifest["metadata"])
    return report


def outline(source: Opened) -> Any:
    """Returns a checkpoint's tree with its slopes read, and shapes for all other leaves."""
    entries = source.manifest["leaves"]
    named = slope_paths(map(joined, entries))
    slopes = {path: one for path, one in entries.items() if joined(path) in named}
    leaves: dict[LeafPath, Any] = {
        path: jax.ShapeDtypeStruct(one["shape"], np.dtype(one["dtype"]))
        for path, one in entries.items()
    }
    leaves |= load(source, slopes, {}, partial=True)
    return assemble(leaves, source.manifest["containers"])


def _part(leaves: Mapping[LeafPath, Any], source: Opened) -> Any:
    """Returns the part of a checkpoint's tree that holds these leaves."""
    above = {path[:end] for path in leaves for end in range(len(path))}
    kinds = source.manifest["containers"]
    return assemble(leaves, {path: kinds[path] for path in above if path in kinds})


def write_pieces(
    target: ocp.path.Path,
    pieces: Iterable[Mapping[LeafPath, Array]],
    expected: Any,
    metadata: Mapping[str, Any],
) -> None:
    """Writes a checkpoint from leaves as they come, then gives the whole its name.

    Args:
      target: what it shall be called.
      pieces: leaves by path.
      expected: the tree that they make up, abstract; a list in it comes in one piece.
      metadata: the user's.
    """
    entries: dict[LeafPath, Any] = {}
    kinds = containers(expected)
    with claimed(target, verify) as place, orbax_context(place):
        together: dict[LeafPath, Array] = {}
        for piece in pieces:
            if sum(leaf.nbytes for leaf in (*together.values(), *piece.values())) > _AT_ONCE:
                _add(place, together, kinds)
                together = {}
            entries |= {path: entry(path, leaf) for path, leaf in piece.items()}
            together |= {path: leaf for path, leaf in piece.items() if leaf.size}
        ordered = [entries[path] for path in flatten(expected)]
        _add(place, together, kinds, seal(ordered, kinds, metadata))
        ocp.partial.finalize(place)


def _why_none(found: Sites, max_gap: float) -> str:
    gaps = {site.path: site.gap for site in found if site.paired and site.gap is not None}
    if not gaps or min(gaps.values()) <= max_gap:
        return "the plan has no site" if gaps else "no site has a Dense on both sides"
    nearest = min(gaps, key=lambda path: gaps[path])
    return (
        f"none of {len(gaps)} sites is within max_gap {max_gap:g}; the smallest gap is "
        f"{gaps[nearest]:.4f}, at {nearest}"
    )


def _in_chain(path: LeafPath, chain: Chain, whole: bool) -> bool:
    """Tells whether a leaf, of params or of statistics, belongs to a chain."""
    if whole and path[0] not in ("params", "batch_stats"):
        return False
    within = joined(path[whole:])
    return any(within.startswith(child + "/") for child in chain.children)


def _gathered(entries: Mapping[LeafPath, Any]) -> Iterator[list[LeafPath]]:
    """Yields paths of leaves that are read together; a list, which orbax has whole, at once."""
    units: dict[LeafPath, list[LeafPath]] = {}
    for path in entries:
        index = next((i for i, key in enumerate(path) if isinstance(key, int)), len(path))
        units.setdefault(path[:index], []).append(path)
    together, size = [], 0
    for paths in units.values():
        unit = sum(_bytes(entries[path]) for path in paths)
        if together and size + unit > _AT_ONCE:
            yield together
            together, size = [], 0
        together, size = together + paths, size + unit
    if together:
        yield together


def _bytes(one: Mapping[str, Any]) -> int:
    return int(np.prod(one["shape"])) * np.dtype(one["dtype"]).itemsize


def _add(
    place: ocp.path.Path, leaves: Mapping[LeafPath, Array], kinds: Containers, sealed: Any = None
) -> None:
    if leaves or sealed:
        ocp.partial.save(place, as_stored(leaves, kinds), custom_metadata=sealed)
