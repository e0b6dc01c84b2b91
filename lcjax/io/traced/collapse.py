"""Collapses the checkpoint of a traced function as a stream."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lcjax.algebra.abstract import is_abstract
from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.fits import Exact, Fit
from lcjax.errors import CollapseError
from lcjax.io.atomic_write import check_free
from lcjax.io.containers import containers
from lcjax.io.file_paths import PathLike, absolute_path
from lcjax.io.leaves import LeafPath, flatten, in_jax, joined
from lcjax.io.streaming import (
    choose_fits,
    explain_empty,
    one_fit,
    read_groups,
    write_incrementally,
)
from lcjax.io.traced.reading import Reader
from lcjax.io.traced.source import MODEL, TracedSource
from lcjax.structure.choice import SiteSelector, Skip
from lcjax.surgery.collapse import collapse_model
from lcjax.surgery.report import CollapseReport, merge_reports
from lcjax.transform.params.tree import remove_leaves
from lcjax.transform.traced_model import TracedModel
from lcjax.tree.fused_key import FusedKey


def collapse_traced(
    source: TracedSource,
    target: PathLike,
    sites: SiteSelector = None,
    fit: Fit | Mapping[str, Fit] | None = None,
    *,
    max_gap: float = 0.05,
    calibration: Calibration | None = None,
) -> CollapseReport:
    """Writes the checkpoint of the compact tree of a function and returns the report.

    As `lcjax.collapse_checkpoint`, for any function: the tree is `{"model", "slopes", "fused"}`,
    what `TracedCall.collapse` returns. Only the leaves that one chain of Dense layers needs are in
    memory at a time, and the others are copied in groups. Layers in a list are read together, as
    orbax reads lists.

    Args:
      source: the checkpoint and the call of its function.
      target: as for `lcjax.collapse_checkpoint`.
      sites: as for `lcjax.collapse_checkpoint`.
      fit: as for `lcjax.collapse_checkpoint`.
      max_gap: as for `lcjax.collapse_checkpoint`.
      calibration: what `calibrate` of the traced call returned.

    Raises:
      FileExistsError: target exists; nothing is overwritten.
      CheckpointError: a leaf is damaged.
      CollapseError: as of `TracedCall.collapse`; no site within max_gap; one chain with several
        fits.
      ValueError: as `lcjax.collapse_checkpoint`.
    """
    model, target = source.call, absolute_path(target)
    check_free(target)
    fits, skipped = choose_fits(model, sites, fit, Exact(max_gap=max_gap), calibration)
    checkpoint = source.contents.checkpoint
    if not fits:
        reason = explain_empty(model.sites, max_gap)
        raise CollapseError(f"{checkpoint.path}: nothing to collapse: {reason}.")
    reports: list[CollapseReport] = []
    left: list[Skip] = []
    kinds: dict[LeafPath, str] = {}

    def pieces() -> Iterator[dict[LeafPath, Any]]:
        reader, removed, keys = Reader(source), set(), []
        slopes = model.variables["slopes"] if source.keeps_slopes else {}
        for chain in model.chains:
            here = [site for site in chain if site in fits]
            if not here:
                continue
            own = one_fit(here, fits)
            statistics = calibration if own.needs_data else None
            loaded = _with_values(model, reader, _needed(model, here))
            compact, report = collapse_model(loaded, here, own, calibration=statistics)
            reports.append(report)
            left.extend(skip for skip in report.skipped if skip.site in here)
            slopes = {site: slopes[site] for site in slopes if site in compact["slopes"]}
            old, new = flatten(loaded.variables), flatten(compact)
            removed |= {path for path in old if path not in new}
            made = {path: leaf for path, leaf in new.items() if old.get(path) is not leaf}
            if any(map(is_abstract, made.values())):
                raise CollapseError(
                    f"{here[0]}: needs state that the checkpoint lacks, such as the statistics of "
                    "a norm. Save all state of the model, not its params alone."
                )
            keys += [key for key in compact["fused"] if key not in model.variables["fused"]]
            yield {path: np.asarray(leaf) for path, leaf in made.items()}
            removed |= set(made)
        kinds.update(_containers(source, slopes, keys))
        yield from _rest(source, reader, removed, slopes)

    write_incrementally(target, pieces(), kinds, checkpoint.manifest["metadata"])
    return merge_reports(reports, model.sites, (*skipped, *left), model.size.parameters)


def _needed(model: TracedModel, sites: Sequence[str]) -> set[LeafPath]:
    """Returns the paths in a tree of the leaves that a collapse of some sites computes with."""
    paths = list(flatten(model.variables))
    leaves, structure = jax.tree.flatten(model.variables)
    removed: set[str] = set()

    def fused(leaves: Sequence[Any]) -> Any:
        abstract = model.with_variables(jax.tree.unflatten(structure, leaves))
        tree, report = collapse_model(abstract, sites, Exact().at_any_gap())
        removed.update(report.removed_leaves)
        return tree["fused"]

    program = jax.make_jaxpr(fused)(leaves).jaxpr
    read = {id(value) for eqn in program.eqns for value in eqn.invars}
    read |= {id(value) for value in program.outvars}
    pairs = zip(paths, program.invars, strict=True)
    return {path for path, value in pairs if id(value) in read or joined(path) in removed}


def _with_values(model: TracedModel, reader: Reader, paths: Collection[LeafPath]) -> TracedModel:
    """Returns a model with the values of some leaves."""
    values = reader.values([path for path in paths if path in reader.leaves])
    leaves = flatten(model.variables)
    known = [in_jax(values[path]) if path in values else leaf for path, leaf in leaves.items()]
    return model.with_variables(jax.tree.unflatten(jax.tree.structure(model.variables), known))


def _containers(
    source: TracedSource, slopes: Mapping[str, Any], keys: Sequence[str]
) -> dict[LeafPath, str]:
    """Returns the containers of the compact tree; in `fused` there are only dicts."""
    gone = {path for key in keys for path in FusedKey.parse(key).removed}
    left = remove_leaves(source.model, gone)
    return containers({MODEL: left, "slopes": slopes})


def _rest(
    source: TracedSource,
    reader: Reader,
    done: Collection[LeafPath],
    slopes: Mapping[str, Any],
) -> Iterator[dict[LeafPath, Any]]:
    """Yields the leaves that no chain has written or removed, in groups."""
    stay = {("slopes", site, "slope") for site in slopes}
    known = {path: leaf for path, leaf in flatten({"slopes": dict(slopes)}).items() if path in stay}
    yield {path: np.asarray(leaf) for path, leaf in known.items()}
    names = {
        stored: path
        for path, stored in source.leaves.items()
        if path not in done and path[0] != "slopes"
    }
    records = source.contents.records
    for group in read_groups({stored: records[stored] for stored in names}):
        yield reader.values([names[stored] for stored in group], keep=False)
