"""Flax linen models that cannot be edited, as modules that run compact params."""

from lcjax.linen.collapsed import Collapsed

__all__ = ["Collapsed"]
