"""Equinox models: an `eqx.Module` in, a smaller `eqx.Module` out."""

from lcjax.eqx.collapsed import Collapsed
from lcjax.eqx.functions import add_slopes, collapse, explain, find_sites, trace

__all__ = ["Collapsed", "add_slopes", "collapse", "explain", "find_sites", "trace"]
