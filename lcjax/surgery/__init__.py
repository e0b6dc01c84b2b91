"""Collapsing sites of a model."""

from lcjax.surgery.report import CollapseReport
from lcjax.surgery.solvers import solve

__all__ = ["CollapseReport", "solve"]
