"""lcjax makes JAX networks shallower (LayerCollapse, arXiv 2311.17943)."""

import os.path as _path
import sys as _sys
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _path.basename("".join(_sys.argv[:1])) == "lcjax":  # the command, also during its imports
    from lcjax._interrupt import end_in_one_line as _end_in_one_line

    _end_in_one_line()

from lcjax.calibration.calibrate import Calibration, calibrate
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import Exact, LeastSquares, PerUnit, Remove, Units
from lcjax.calibration.low_rank import LowRank
from lcjax.errors import CheckpointError, CollapseError
from lcjax.io.calibration_file import restore_calibration, save_calibration
from lcjax.io.checkpoint import read_metadata, restore, save
from lcjax.io.streaming import collapse_checkpoint
from lcjax.nn.activations import CollapsibleActivation, CollapsibleGate
from lcjax.nn.glu import CollapsibleGLU
from lcjax.nn.mlp import CollapsibleMLP
from lcjax.optim.anneal import anneal_slopes
from lcjax.optim.opt_state import carry_opt_state, update_site_selection
from lcjax.optim.penalty import add_linearity_penalty, linearity_penalty, proximal_linearity_penalty
from lcjax.optim.strength import strength_for_gap
from lcjax.optim.wrapper import with_linearity_penalty
from lcjax.planning.budgets import Count, Flops, Latency, MaxDrop, Memory, Params
from lcjax.planning.candidates import Candidates
from lcjax.planning.fit_plan import FitPlan
from lcjax.planning.measuring.outputs import KLDivergence, RelativeError
from lcjax.planning.plan import plan
from lcjax.planning.plan_fits import plan_fits
from lcjax.planning.results import Plan, Sensitivity
from lcjax.planning.sensitivity import sensitivity
from lcjax.stablehlo.exporting import export
from lcjax.stablehlo.loading import ExportedModel, load_exported
from lcjax.structure.choice import Skip
from lcjax.structure.replacement import SegmentFit
from lcjax.structure.sites import Site, Sites, find_sites
from lcjax.structure.tabulate import tabulate
from lcjax.structure.unstack import unstack_layers
from lcjax.surgery.collapse import abstract_collapse, collapse
from lcjax.surgery.plain import without_bypasses
from lcjax.surgery.report import CollapseReport
from lcjax.surgery.sequential import collapse_sequential
from lcjax.transform.collapsible import collapsible
from lcjax.transform.function import CollapsibleFunction
from lcjax.transform.traced_call import TracedCall
from lcjax.tree.fused_key import FusedKey
from lcjax.tree.selection import SiteSelection
from lcjax.tree.slopes import count_parameters, map_slopes, select_sites, slopes
from lcjax.tree.units import with_unit_slopes

if _TYPE_CHECKING:
    from lcjax import eqx, folder, interop, linen, models, nnx

__all__ = [
    "Calibration",
    "CalibrationData",
    "Candidates",
    "CheckpointError",
    "CollapseError",
    "CollapseReport",
    "CollapsibleActivation",
    "CollapsibleFunction",
    "CollapsibleGLU",
    "CollapsibleGate",
    "CollapsibleMLP",
    "Count",
    "Exact",
    "ExportedModel",
    "FitPlan",
    "Flops",
    "FusedKey",
    "KLDivergence",
    "Latency",
    "LeastSquares",
    "LowRank",
    "MaxDrop",
    "Memory",
    "Params",
    "PerUnit",
    "Plan",
    "RelativeError",
    "Remove",
    "SegmentFit",
    "Sensitivity",
    "Site",
    "SiteSelection",
    "Sites",
    "Skip",
    "TracedCall",
    "Units",
    "abstract_collapse",
    "add_linearity_penalty",
    "anneal_slopes",
    "calibrate",
    "carry_opt_state",
    "collapse",
    "collapse_checkpoint",
    "collapse_sequential",
    "collapsible",
    "count_parameters",
    "eqx",
    "export",
    "find_sites",
    "folder",
    "interop",
    "linearity_penalty",
    "linen",
    "load_exported",
    "map_slopes",
    "models",
    "nnx",
    "plan",
    "plan_fits",
    "proximal_linearity_penalty",
    "read_metadata",
    "restore",
    "restore_calibration",
    "save",
    "save_calibration",
    "select_sites",
    "sensitivity",
    "slopes",
    "strength_for_gap",
    "tabulate",
    "unstack_layers",
    "update_site_selection",
    "with_linearity_penalty",
    "with_unit_slopes",
    "without_bypasses",
]
__version__ = "0.1.0"

# Imported on first use: a server that runs an exported program needs neither.
_LAZY = ("eqx", "folder", "interop", "linen", "models", "nnx")


def __getattr__(name: str) -> _Any:
    if name in _LAZY:
        return _import_module(f"lcjax.{name}")
    raise AttributeError(f"module 'lcjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
