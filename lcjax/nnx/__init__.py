"""An NNX module in, an NNX module out."""

from lcjax.nnx.functions import (
    add_slopes,
    calibrate,
    collapse,
    collapse_sequential,
    explain,
    find_sites,
    plan,
    plan_fits,
    sensitivity,
)
from lcjax.nnx.merging import merge
from lcjax.nnx.rewritten import Slope
from lcjax.nnx.trace import ModuleCall, trace

__all__ = [
    "ModuleCall",
    "Slope",
    "add_slopes",
    "calibrate",
    "collapse",
    "collapse_sequential",
    "explain",
    "find_sites",
    "merge",
    "plan",
    "plan_fits",
    "sensitivity",
    "trace",
]
