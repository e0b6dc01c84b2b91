"""The tree of a collapsible function, and the keys of its fused sites."""

from lcjax.transform.params.tree import FunctionParams
from lcjax.tree.fused_key import FusedKey

__all__ = ["FunctionParams", "FusedKey"]
