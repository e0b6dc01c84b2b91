"""A traced program: its equations, their interpreter, rewrites of it."""

from lcjax.transform.ir.program import Op, Program, Region, Value
from lcjax.transform.ir.rewrites import Rewrites, Substitution

__all__ = ["Op", "Program", "Region", "Rewrites", "Substitution", "Value"]
