"""lcjax makes JAX networks shallower (LayerCollapse, arXiv 2311.17943)."""

import os.path as _path
import sys as _sys

if _path.basename("".join(_sys.argv[:1])) == "lcjax":  # the command: also while it imports
    from lcjax.stopping import end_in_one_line as _end_in_one_line

    _end_in_one_line()

from lcjax.activations import CollapsibleActivation, CollapsibleGate
from lcjax.annealing import anneal_slopes
from lcjax.calibration import Calibration, calibrate
from lcjax.checkpoint import read_metadata, restore, save
from lcjax.continuation import carry_opt_state, reselect
from lcjax.errors import CollapseError
from lcjax.exported import ExportedModel, load_exported
from lcjax.layers import CollapsibleGLU, CollapsibleMLP
from lcjax.optimizer import collapsing
from lcjax.penalty import add_linearity_penalty, linearity_penalty, shrink_linearity_gap
from lcjax.planning import plan, sensitivity
from lcjax.plans import Plan, Sensitivity
from lcjax.report import CollapseReport, RunFit
from lcjax.sealed import CheckpointError
from lcjax.sequential import collapse_sequential
from lcjax.sites import Site, Sites, find_sites
from lcjax.stablehlo import export
from lcjax.streaming import collapse_checkpoint
from lcjax.strength import strength_for_gap
from lcjax.surgery import abstract_collapse, collapse
from lcjax.tabulate import tabulate
from lcjax.transform.collapsible import collapsible
from lcjax.transform.function import CollapsibleFunction
from lcjax.unstacking import unstack_layers

__all__ = [
    "Calibration",
    "CheckpointError",
    "CollapseError",
    "CollapseReport",
    "CollapsibleActivation",
    "CollapsibleFunction",
    "CollapsibleGLU",
    "CollapsibleGate",
    "CollapsibleMLP",
    "ExportedModel",
    "Plan",
    "RunFit",
    "Sensitivity",
    "Site",
    "Sites",
    "abstract_collapse",
    "add_linearity_penalty",
    "anneal_slopes",
    "calibrate",
    "carry_opt_state",
    "collapse",
    "collapse_checkpoint",
    "collapse_sequential",
    "collapsing",
    "collapsible",
    "export",
    "find_sites",
    "linearity_penalty",
    "load_exported",
    "plan",
    "read_metadata",
    "reselect",
    "restore",
    "save",
    "sensitivity",
    "shrink_linearity_gap",
    "strength_for_gap",
    "tabulate",
    "unstack_layers",
]
__version__ = "0.1.0"
