"""Paths, slopes and sites of trees of params."""

from lcjax.tree.paths import leaf_path, natural_sort_key
from lcjax.tree.selection import SiteSelection
from lcjax.tree.slopes import count_parameters, map_slopes, select_sites

# lcjax.slopes is not here, where it would hide the module of that name.
__all__ = [
    "SiteSelection",
    "count_parameters",
    "leaf_path",
    "map_slopes",
    "natural_sort_key",
    "select_sites",
]
