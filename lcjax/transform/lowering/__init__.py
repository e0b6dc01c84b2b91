"""From chosen sites to the program that runs."""

from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.execution_plan import ExecutionPlan

__all__ = ["BoundCall", "ExecutionPlan"]
