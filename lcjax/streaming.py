"""Checkpoints read and collapsed leaf by leaf, so that they need not fit into memory."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lcjax.chains import Chain, find_chains, join
from lcjax.checkpoint import fits_jax, load
from lcjax.chosen import Choice, by_gap
from lcjax.errors import CollapseError
from lcjax.leaves import Array, LeafPath, empty_dicts, flatten, joined, nest
from lcjax.manifest import (
    UNFINISHED,
    PathLike,
    absolute,
    check_names,
    entry,
    finished,
    read_manifest,
    seal,
)
from lcjax.paths import slope_paths
from lcjax.report import CollapseReport
from lcjax.sites import Sites, find_sites, params_of
from lcjax.surgery import abstract_collapse, collapse

_AT_ONCE = 2**26  # bytes of leaves that are read, and written, together


def collapse_checkpoint(
    source: PathLike, target: PathLike, sites: Choice = None, *, threshold: float = 0.05
) -> CollapseReport:
    """Writes the checkpoint that `save` would write of the collapsed tree; returns the report.

    It is bit for bit what `collapse(restore(source), sites, threshold=threshold)` gives, with the
    source's metadata, but one chain of Dense layers is in memory at a time: a checkpoint may be
    larger than memory. Every leaf is verified as it is read. The target is complete or not there
    at all: until the end it is `target.partial_save`, which `restore` refuses, and which the next
    attempt deletes. In one process, on its default device.

    Args:
      source: what `save` was given.
      target: the directory to make, with its parents.
      sites: paths, globs, Sites or a Plan; None takes every site within the threshold.
      threshold: largest accepted gap `|1 − α|`; dimensionless, at least 0.

    Raises:
      FileNotFoundError: there is nothing at source.
      FileExistsError: there is something at target: nothing is ever overwritten.
      CheckpointError: source is no checkpoint of `save`, or damaged.
      CollapseError: as `collapse`, or no site is within the threshold.
      ValueError: a threshold out of range.
    """
    source, target = finished(source), absolute(target)
    if target.exists():
        raise FileExistsError(
            f"{target} exists and nothing is ever overwritten: name another path or delete it."
        )
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}, must be at least 0.")
    manifest = read_manifest(source)
    entries = {tuple(one["path"]): one for one in manifest["leaves"]}
    tree = outline(source, manifest)
    found = find_sites(tree)
    chosen, kept = by_gap(found, sites, threshold)
    if not chosen:
        raise CollapseError(f"{source}: nothing to collapse: {_why_none(found, threshold)}.")
    expected, report = abstract_collapse(tree, sorted(chosen))
    check_names({path: leaf for path, leaf in flatten(expected).items() if 0 not in leaf.shape})
    gaps: dict[str, Any] = {}

    def pieces() -> Iterator[dict[LeafPath, Array]]:
        left = dict(entries)
        for chain in find_chains(params_of(tree)):
            here = chosen & {chain.site(i) for i in chain.acts}
            if here:
                paths = [path for path in left if _in_chain(path, chain, "params" in tree)]
                held = load(source, {path: left.pop(path) for path in paths}, {}, partial=True)
                held = {path: jax.device_put(a) if fits_jax(a) else a for path, a in held.items()}
                compact, done = collapse(nest(held), sorted(here), threshold=np.inf)
                gaps.update(done.gaps)
                yield {path: np.asarray(leaf) for path, leaf in flatten(compact).items()}
        for paths in _gathered(left):
            yield load(source, {path: left[path] for path in paths}, {}, partial=True)

    write_pieces(target, pieces(), expected, manifest["metadata"])
    return replace(report, gaps=gaps, kept=tuple(kept))


def outline(source: ocp.path.Path, manifest: Mapping[str, Any]) -> Any:
    """Returns a checkpoint's tree with its slopes read, and shapes for all other leaves."""
    entries = {tuple(one["path"]): one for one in manifest["leaves"]}
    named = slope_paths(map(joined, entries))
    slopes = {path: one for path, one in entries.items() if joined(path) in named}
    leaves: dict[LeafPath, Any] = {
        path: jax.ShapeDtypeStruct(tuple(one["shape"]), np.dtype(one["dtype"]))
        for path, one in entries.items()
    }
    leaves |= load(source, slopes, {}, partial=True)
    return nest(leaves | {tuple(path): {} for path in manifest["empty"]})


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
    _clear(target)
    entries: dict[LeafPath, Any] = {}
    try:
        together: dict[LeafPath, Array] = {}
        for piece in pieces:
            if sum(leaf.nbytes for leaf in (*together.values(), *piece.values())) > _AT_ONCE:
                _add(target, together)
                together = {}
            entries |= {path: entry(path, leaf) for path, leaf in piece.items()}
            together |= {path: leaf for path, leaf in piece.items() if leaf.size}
        ordered = [entries[path] for path in flatten(expected)]
        sealed = seal(ordered, empty_dicts(expected), metadata)
        _add(target, together, sealed)
        ocp.partial.finalize(target)
    except BaseException:
        _clear(target)
        raise


def _why_none(found: Sites, threshold: float) -> str:
    gaps = {site.path: site.gap for site in found if site.paired and site.gap is not None}
    if not gaps or min(gaps.values()) <= threshold:
        return "the plan has no site" if gaps else "no site has a Dense on both sides"
    nearest = min(gaps, key=lambda path: gaps[path])
    return (
        f"none of {len(gaps)} sites is within the threshold {threshold:g}; the smallest gap is "
        f"{gaps[nearest]:.4f}, at {nearest}"
    )


def _in_chain(path: LeafPath, chain: Chain, whole: bool) -> bool:
    """Tells whether a leaf, of params or of statistics, belongs to a chain."""
    if whole and path[0] not in ("params", "batch_stats"):
        return False
    names = [chain.dense_name(i) for i in chain.denses] + [chain.act_name(i) for i in chain.acts]
    names += [f"norm_{i}" for i in chain.acts] + ["gate"] * (chain.gate is not None)
    within = joined(path[whole:])
    return any(within.startswith(join(chain.path, name) + "/") for name in names)


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


def _clear(target: ocp.path.Path) -> None:
    """Removes what an attempt to write left behind."""
    for suffix in UNFINISHED:
        left = target.with_name(target.name + suffix)
        if left.exists():
            left.rmtree()


def _add(target: ocp.path.Path, leaves: Mapping[LeafPath, Array], sealed: Any = None) -> None:
    if leaves or sealed:
        ocp.partial.save(target, nest(leaves), custom_metadata=sealed)
