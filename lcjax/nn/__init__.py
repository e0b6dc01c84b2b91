"""Modules to build networks with."""

from lcjax.nn.activations import CollapsibleActivation, CollapsibleGate, interpolate
from lcjax.nn.glu import CollapsibleGLU
from lcjax.nn.mlp import CollapsibleMLP

__all__ = [
    "CollapsibleActivation",
    "CollapsibleGLU",
    "CollapsibleGate",
    "CollapsibleMLP",
    "interpolate",
]
