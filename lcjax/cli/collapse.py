"""`lcjax collapse`: collapses a checkpoint as a stream."""

import argparse
from pathlib import Path
from typing import Any

from lcjax._messages import first_few
from lcjax.calibration.calibrate import Calibration
from lcjax.cli.traced_model import traced_source
from lcjax.errors import CollapseError
from lcjax.io.atomic_write import check_free
from lcjax.io.calibration_file import restore_calibration
from lcjax.io.file_paths import PathLike, absolute_path
from lcjax.io.reader import open_checkpoint
from lcjax.io.streaming import abstract_with_slopes, collapse_checkpoint
from lcjax.io.traced.collapse import collapse_traced
from lcjax.io.traced.source import TracedSource
from lcjax.planning.plan_file import PlanFile
from lcjax.planning.results import Plan
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree
from lcjax.surgery.report import CollapseReport
from lcjax.tree.selection import NO_SITES
from lcjax.validation.json_files import parse_json, read_bounded


def collapse_command(options: argparse.Namespace) -> str:
    """Returns the report of the collapse that the options describe.

    Raises:
      ValueError: a plan for fits to data without statistics, or with those of another fit; others
        as of `collapse_checkpoint`.
    """
    check_free(absolute_path(options.target))
    stats = None if options.calibration is None else restore_calibration(options.calibration)
    traced = traced_source(options.source, options)
    chosen: dict[str, Any] = {"sites": options.sites}
    if options.plan is not None:
        chosen = _read_plan(options.plan, _model_of(options.source, traced), stats)
    chosen |= {"max_gap": options.max_gap, "calibration": stats}
    if traced is None:
        report = _collapse_own(options, chosen)
        return f"{report}\nwritten to {options.target}"
    report = collapse_traced(traced, options.target, **chosen)
    others = traced.contents.others
    lines = [f"left out: {first_few(others)}, outside of --params"] if others else []
    return "\n".join([str(report), *lines, f"written to {options.target}"])


def _collapse_own(options: argparse.Namespace, chosen: dict[str, Any]) -> CollapseReport:
    """Returns the report of the collapse of a checkpoint of a model with lcjax's activations.

    Raises:
      CollapseError: as of `collapse_checkpoint`; without a site, with the options for other models.
    """
    try:
        return collapse_checkpoint(options.source, options.target, **chosen)
    except CollapseError as error:
        if str(error) != NO_SITES:
            raise
        raise CollapseError(
            f"{options.source}: no sites: the tree has no leaf named `slope`, as lcjax's "
            "activations have. For any other model give --model MODULE:FUNCTION, which returns the "
            "model and example inputs, or name the kernels with --pair UP,DOWN; see --help."
        ) from error


def _model_of(source: PathLike, traced: TracedSource | None) -> Collapsible:
    if traced is not None:
        return traced.call
    return ParamsTree(abstract_with_slopes(open_checkpoint(source)))


def _read_plan(path: Path, model: Collapsible, stats: Calibration | None) -> dict[str, Any]:
    """Returns what a plan of either kind of file chooses: sites, or a fit for every site."""
    text = read_bounded(path).decode()
    found = parse_json(text, path)
    if isinstance(found, dict) and "lcjax_fits" in found:
        plan = PlanFile.from_json(text, path)
        plan.check(model, stats)
        if not plan.fits:
            raise ValueError(f"{path}: nothing to collapse: the plan keeps every site.")
        needy = [site for site, fit in plan.fits.items() if fit.needs_data]
        if needy and stats is None:
            raise ValueError(
                f"{path}: got {plan.fits[needy[0]].name} for {needy[0]}, a fit to data; expected "
                "--calibration, what lcjax.save_calibration wrote. With data in Python: fits = "
                f"PlanFile.load({str(path)!r}).fits, then lcjax.collapse_sequential(apply_fn, "
                "variables, data, fit=fits)."
            )
        return {"fit": plan.fits}
    try:
        old = Plan.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if stats is None and old.fit != "exact":
        raise ValueError(
            f"{path}: got a plan for a {old.fit} fit, expected an exact one; give --calibration, "
            "or use lcjax.collapse_sequential with data in Python."
        )
    if stats is not None and old.fit != stats.fit.name:
        raise ValueError(
            f"{path}: got a plan for a {old.fit} fit and a calibration for {stats.fit.name}; "
            "expected those of one fit. Calibrate for the plan's."
        )
    return {"sites": old}
