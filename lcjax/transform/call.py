"""Running a call of a function with its tree."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax

from lcjax.transform.ir.interpreter import run_program
from lcjax.transform.ir.program import Value
from lcjax.transform.ir.rewrites import shifted
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.execution_plan import bind_arrays, plan_execution
from lcjax.transform.params.tree import remove_leaves


def run_call(call: BoundCall, shifts: Mapping[Value, Any] | None = None) -> Any:
    """Returns what the function returns, except for statistics of norms that were folded in.

    Args:
      call: with its tree.
      shifts: arrays to add to results of operations, by the value.

    Raises:
      CollapseError: as `CollapsibleFunction.__call__`.
    """
    execution, program = plan_execution(call), call.program
    rewrites = shifted(execution.rewrites, shifts) if shifts else execution.rewrites
    env = bind_arrays(call, execution)
    outs = [execution.instead.get(value, value) for value in program.outs]
    present = [value for value in outs if value is not None]
    returned = iter(run_program(replace(program, outs=present), rewrites, env))
    tree = jax.tree.unflatten(call.trace.out, [0 if v is None else next(returned) for v in outs])
    pairs = zip(call.trace.out_paths, outs, strict=True)
    dropped = {path for path, value in pairs if value is None}
    return _without(tree, dropped) if dropped else tree


def _without(tree: Any, dropped: set[str]) -> Any:
    """Returns outputs without some leaves; a tuple keeps its length."""
    if type(tree) is not tuple:
        return None if "" in dropped else remove_leaves(tree, dropped)
    parts = []
    for i, part in enumerate(tree):
        inside = {path.removeprefix(f"[{i}]") for path in dropped if path.startswith(f"[{i}]")}
        parts.append(_without(part, {path.removeprefix("/") for path in inside}))
    return tuple(parts)
