"""Pictures of plans and collapses, for notebooks and files; they need matplotlib."""

from lcjax.plots.picture import Picture

__all__ = ["Picture"]
