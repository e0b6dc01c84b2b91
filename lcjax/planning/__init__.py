"""Which sites to collapse under a budget."""

from lcjax.planning.budgets import Count, Flops, MaxDrop, Params
from lcjax.planning.results import Plan, Sensitivity

__all__ = ["Count", "Flops", "MaxDrop", "Params", "Plan", "Sensitivity"]
