"""lcjax makes JAX networks shallower (LayerCollapse, arXiv 2311.17943)."""

from lcjax.activations import CollapsibleActivation, CollapsibleGate
from lcjax.errors import CollapseError
from lcjax.layers import CollapsibleGLU, CollapsibleMLP

__all__ = [
    "CollapseError",
    "CollapsibleActivation",
    "CollapsibleGLU",
    "CollapsibleGate",
    "CollapsibleMLP",
]
__version__ = "0.1.0"
