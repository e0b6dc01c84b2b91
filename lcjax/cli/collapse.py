"""`lcjax collapse`: collapses a checkpoint as a stream."""

import argparse
from pathlib import Path

from lcjax.io.streaming import collapse_checkpoint
from lcjax.planning.results import Plan
from lcjax.validation.json_files import read_bounded


def collapse_command(options: argparse.Namespace) -> str:
    """Returns the report of the collapse that the options describe.

    Raises:
      ValueError: a plan that is not for an exact fit; others as of `collapse_checkpoint`.
    """
    sites = options.sites if options.plan is None else _read_plan(options.plan)
    report = collapse_checkpoint(options.source, options.target, sites, max_gap=options.max_gap)
    return f"{report}\nwritten to {options.target}"


def _read_plan(path: Path) -> Plan:
    try:
        plan = Plan.from_json(read_bounded(path).decode())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if plan.fit != "exact":
        raise ValueError(
            f"{path}: got a plan for a {plan.fit} fit, expected an exact one; use "
            "lcjax.collapse_sequential with data in Python, or plan with lcjax.Exact()."
        )
    return plan
