"""lcjax makes JAX networks shallower (LayerCollapse, arXiv 2311.17943)."""

import os.path as _path
import sys as _sys

if _path.basename("".join(_sys.argv[:1])) == "lcjax":  # the command: also while it imports
    from lcjax._interrupt import end_in_one_line as _end_in_one_line

    _end_in_one_line()

from lcjax.calibration.calibrate import Calibration, calibrate
from lcjax.errors import CheckpointError, CollapseError
from lcjax.io.checkpoint import read_metadata, restore, save
from lcjax.io.streaming import collapse_checkpoint
from lcjax.nn.activations import CollapsibleActivation, CollapsibleGate
from lcjax.nn.layers import CollapsibleGLU, CollapsibleMLP
from lcjax.optim.anneal import anneal_slopes
from lcjax.optim.opt_state import carry_opt_state, update_site_selection
from lcjax.optim.penalty import add_linearity_penalty, linearity_penalty, proximal_linearity_penalty
from lcjax.optim.strength import strength_for_gap
from lcjax.optim.wrapper import with_linearity_penalty
from lcjax.planning.plan import plan, sensitivity
from lcjax.planning.results import Plan, Sensitivity
from lcjax.stablehlo.exporting import export
from lcjax.stablehlo.loading import ExportedModel, load_exported
from lcjax.structure.sites import Site, Sites, find_sites
from lcjax.structure.tabulate import tabulate
from lcjax.structure.unstack import unstack_layers
from lcjax.surgery.collapse import abstract_collapse, collapse
from lcjax.surgery.report import CollapseReport, SegmentFit
from lcjax.surgery.sequential import collapse_sequential
from lcjax.transform.collapsible import collapsible
from lcjax.transform.function import CollapsibleFunction

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
    "SegmentFit",
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
    "with_linearity_penalty",
    "collapsible",
    "export",
    "find_sites",
    "linearity_penalty",
    "load_exported",
    "plan",
    "read_metadata",
    "update_site_selection",
    "restore",
    "save",
    "sensitivity",
    "proximal_linearity_penalty",
    "strength_for_gap",
    "tabulate",
    "unstack_layers",
]
__version__ = "0.1.0"
