"""The tree of a collapsible function, and the keys of its fused sites."""

from lcjax.transform.params.keys import FusedKey
from lcjax.transform.params.tree import FunctionParams

__all__ = ["FunctionParams", "FusedKey"]
