"""Collapses checkpoints as a stream, so that they need not fit into memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.fits import Exact, Fit, check_fit
from lcjax.errors import CollapseError
from lcjax.io.atomic_write import atomic_write, check_free
from lcjax.io.containers import Containers, as_stored, assemble
from lcjax.io.file_paths import PathLike, absolute_path, orbax_context
from lcjax.io.leaves import Array, LeafPath, flatten, in_jax, joined
from lcjax.io.manifest import check_names, leaf_record, make_manifest
from lcjax.io.reader import OpenCheckpoint, open_checkpoint, read_leaves
from lcjax.io.verify import verify
from lcjax.structure.chains.chain import Chain
from lcjax.structure.choice import SiteSelector, Skip, assign, select_for_fit, select_linear
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree
from lcjax.structure.sites import Sites
from lcjax.surgery.collapse import collapse
from lcjax.surgery.fold import partly_linear, worth_folding
from lcjax.surgery.report import CollapseReport, merge_reports
from lcjax.tree.paths import slope_paths

_GROUP_BYTES = 2**26  # leaves that are read, and written, together


def collapse_checkpoint(
    source: PathLike,
    target: PathLike,
    sites: SiteSelector = None,
    fit: Fit | Mapping[Any, Fit] | None = None,
    *,
    max_gap: float = 0.05,
    calibration: Calibration | None = None,
) -> CollapseReport:
    """Writes the checkpoint of the collapsed tree and returns the report.

    The result is bitwise that of `collapse(restore(source), ...)` and `save`, with the source's
    metadata, but only one chain of Dense layers is in memory at a time: the checkpoint may be
    larger than memory. Every leaf is verified when it is read. The target is complete or does
    not exist: until the end it is in `target.lcjax-unfinished`, which `restore` refuses and the
    next attempt takes over. Runs in one process, on its default device.

    Args:
      source: the directory that `save` created, or a checkpoint of orbax, without checksums.
      target: the directory to create, with its parents, as in `save`.
      sites: paths, globs, `re.Pattern`s, Sites or a Plan; None collapses every site with a
        gap up to max_gap, or those that were calibrated.
      fit: None takes `Exact(max_gap=max_gap)`, with a calibration the fit that it was made for. A
        mapping gives each site the fit of the first of its paths, globs or `re.Pattern`s that
        matches, in the place of sites; those of one chain must be alike.
      max_gap: largest accepted gap `|1 − α|`; at least 0.
      calibration: what `lcjax.calibrate` returned for the source's variables; every site is fitted
        independently, on the deep model's inputs, also with the fits of a plan.
        `lcjax.collapse_sequential`, which is better, needs the data.

    Returns:
      the report, as `lcjax.collapse` returns it.

    Raises:
      FileNotFoundError: source does not exist.
      FileExistsError: target exists, or another save is writing to it; nothing is overwritten.
      CheckpointError: source is not a checkpoint, or is damaged.
      CollapseError: as of `collapse`; no site has a gap up to max_gap; one chain with several fits.
      ValueError: max_gap is negative or NaN; a fit that needs a calibration without one.

    Example:
      >>> import jax, numpy as np, tempfile, lcjax
      >>> folder = tempfile.mkdtemp()
      >>> model = lcjax.CollapsibleMLP((8, 2))
      >>> lcjax.save(folder + "/deep", model.init(jax.random.key(0), np.ones((1, 4))))
      >>> lcjax.collapse_checkpoint(folder + "/deep", folder + "/compact", max_gap=1).collapsed
      ('act_0',)

    References: Shabgahi et al. 2023, arXiv 2311.17943, section 3.3.
    """
    exact = Exact(max_gap=max_gap)
    target = absolute_path(target)
    check_free(target)
    read = open_checkpoint(source)
    model = ParamsTree(abstract_with_slopes(read), caller="collapse_checkpoint")
    fits, skipped = choose_fits(model, sites, fit, exact, calibration)
    if not fits:
        reason = explain_empty(model.sites, max_gap)
        raise CollapseError(f"{read.path}: nothing to collapse: {reason}.")
    reports: list[CollapseReport] = []

    def pieces() -> Iterator[dict[LeafPath, Array]]:
        left = dict(read.manifest["leaves"])
        for chain in model.chains:
            here = [site for site in chain.sites if site in fits]
            if here:
                paths = [p for p in left if _in_chain(p, chain, "params" in model.variables)]
                records = {path: left.pop(path) for path in paths}
                stored = read_leaves(read, records, {}, partial=True)
                leaves = {path: in_jax(leaf) for path, leaf in stored.items()}
                own = one_fit(here, fits)
                statistics = calibration if own.needs_data else None
                part = _part(leaves, read)
                compact, report = collapse(part, here, own, calibration=statistics)
                reports.append(report)
                yield {path: np.asarray(leaf) for path, leaf in flatten(compact).items()}
        for paths in read_groups(left):
            yield read_leaves(read, {path: left[path] for path in paths}, {}, partial=True)

    write_incrementally(target, pieces(), read.manifest["containers"], read.manifest["metadata"])
    skipped += tuple(skip for report in reports for skip in report.skipped if skip.site in fits)
    return merge_reports(reports, model.sites, skipped, model.size.parameters)


def choose_fits(
    model: Collapsible,
    sites: SiteSelector,
    fit: Fit | Mapping[Any, Fit] | None,
    exact: Exact,
    calibration: Calibration | None,
) -> tuple[Mapping[str, Fit], tuple[Skip, ...]]:
    """Returns the fit of every site that is replaced, and the sites that stay.

    Args:
      model: of abstract leaves and slopes with values.
      sites: as for `collapse_checkpoint`.
      fit: as for `collapse_checkpoint`.
      exact: the fit without a calibration.
      calibration: as for `collapse_checkpoint`.

    Raises:
      CollapseError: a pattern that matches no site, or a site that cannot be taken.
      ValueError: a fit that needs a calibration without one; sites and a mapping of fits.
    """
    if isinstance(fit, Mapping):
        if sites is not None:
            raise ValueError("sites: got them and a fit for every site; leave sites out.")
        selection, fits = select_for_fit(model.sites, list(fit)), assign(model.sites, fit)
    elif calibration is None and (fit is None or not fit.needs_data):
        fit = exact if fit is None else fit
        partly = partly_linear(model.sites, model.variables, fit.max_gap)
        selection = select_linear(model.sites, sites, fit.max_gap, partly=partly)
        over = {skip.site for skip in selection.skipped if skip.reason == "gap"}
        folded = worth_folding(model, {path: partly[path] for path in partly if path in over})
        fits = dict.fromkeys((*selection.chosen, *folded), fit)
        rest = tuple(skip for skip in selection.skipped if skip.site not in folded)
        selection = selection._replace(skipped=rest)
    else:
        usual = exact if calibration is None else calibration.fit
        calibrated = None if calibration is None else calibration.sites
        selection = select_for_fit(model.sites, calibrated if sites is None else sites)
        fits = dict.fromkeys(selection.chosen, usual if fit is None else fit)
    for one in fits.values():
        check_fit(one)
    needy = [site for site, one in fits.items() if one.needs_data]
    if needy and calibration is None:
        raise ValueError(
            f"{needy[0]}: got the fit {fits[needy[0]]}, which needs data; expected a calibration. "
            "Pass lcjax.calibrate(apply_fn, variables, data, fit=...), or collapse in memory by "
            "lcjax.collapse_sequential(apply_fn, variables, data, fit=...)."
        )
    return fits, selection.skipped


def one_fit(sites: Sequence[str], fits: Mapping[str, Fit]) -> Fit:
    """Returns the one fit of the sites of a chain.

    Raises:
      CollapseError: several fits.
    """
    different = list({fits[site]: site for site in sites}.items())
    if len(different) > 1:
        (first, one), (second, other) = different[:2]
        raise CollapseError(
            f"{one}, {other}: got the fits {first} and {second} in one chain, expected one fit. "
            "Collapse such a chain in memory by lcjax.collapse_sequential."
        )
    return different[0][0]


def abstract_with_slopes(source: OpenCheckpoint) -> Any:
    """Returns a checkpoint's tree with the values of slopes and the shapes of all other leaves."""
    entries = source.manifest["leaves"]
    named = slope_paths(map(joined, entries))
    slopes = {path: one for path, one in entries.items() if joined(path) in named}
    leaves: dict[LeafPath, Any] = {
        path: jax.ShapeDtypeStruct(one["shape"], np.dtype(one["dtype"]))
        for path, one in entries.items()
    }
    leaves |= read_leaves(source, slopes, {}, partial=True)
    return assemble(leaves, source.manifest["containers"])


def _part(leaves: Mapping[LeafPath, Any], source: OpenCheckpoint) -> Any:
    """Returns the part of a checkpoint's tree with these leaves."""
    above = {path[:end] for path in leaves for end in range(len(path))}
    kinds = source.manifest["containers"]
    return assemble(leaves, {path: kinds[path] for path in above if path in kinds})


def write_incrementally(
    target: ocp.path.Path,
    pieces: Iterable[Mapping[LeafPath, Array]],
    kinds: Containers,
    metadata: Mapping[str, Any],
) -> None:
    """Writes a checkpoint from groups of leaves, one after the other.

    Args:
      target: the final path.
      pieces: groups of leaves by path.
      kinds: the containers of their tree; the leaves of a list must be in one group. Those of a
        group may be added while the groups before it are read.
      metadata: the user's metadata.
    """
    entries: dict[LeafPath, Any] = {}
    with atomic_write(target, verify) as place, orbax_context(place):
        together: dict[LeafPath, Array] = {}
        for piece in pieces:
            if sum(leaf.nbytes for leaf in (*together.values(), *piece.values())) > _GROUP_BYTES:
                _add(place, together, kinds)
                together = {}
            entries |= {path: leaf_record(path, leaf) for path, leaf in piece.items()}
            together |= {path: leaf for path, leaf in piece.items() if leaf.size}
        check_names({path: leaf for path, leaf in entries.items() if 0 not in leaf["shape"]})
        ordered = [entries[path] for path in flatten(assemble(dict.fromkeys(entries, 0), kinds))]
        _add(place, together, kinds, make_manifest(ordered, kinds, metadata))
        ocp.partial.finalize(place)


def explain_empty(found: Sites, max_gap: float) -> str:
    """Returns why none of the sites is collapsed."""
    gaps = {site.path: site.gap for site in found if site.paired and site.gap is not None}
    if not gaps or min(gaps.values()) <= max_gap:
        return "the plan has no site" if gaps else "no site has a Dense on both sides"
    nearest = min(gaps, key=lambda path: gaps[path])
    return (
        f"none of {len(gaps)} sites has a gap up to max_gap={max_gap:g}; the smallest is "
        f"{gaps[nearest]:.4f}, at {nearest}; train slopes, raise max_gap, or give a calibration"
    )


def _in_chain(path: LeafPath, chain: Chain, has_collections: bool) -> bool:
    """Returns whether a leaf, of params or of batch statistics, belongs to a chain."""
    if has_collections and path[0] not in ("params", "batch_stats"):
        return False
    within = joined(path[has_collections:])
    return any(within.startswith(child + "/") for child in chain.children)


def read_groups(entries: Mapping[LeafPath, Any]) -> Iterator[list[LeafPath]]:
    """Yields groups of paths to read together; orbax reads a list as a whole."""
    units: dict[LeafPath, list[LeafPath]] = {}
    for path in entries:
        index = next((i for i, key in enumerate(path) if isinstance(key, int)), len(path))
        units.setdefault(path[:index], []).append(path)
    together, size = [], 0
    for paths in units.values():
        unit = sum(_bytes(entries[path]) for path in paths)
        if together and size + unit > _GROUP_BYTES:
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
