"""A call of a function with the tree that it is given."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax

from lcjax.transform.ir.interpreter import run_program
from lcjax.transform.lowering.execution_plan import bind_arrays, plan_execution
from lcjax.transform.matching.tracing import CallTrace
from lcjax.transform.params.tree import FunctionParams, remove_leaves


def call(
    traced: CallTrace, parts: FunctionParams, leaves: Sequence[Any], arrays: Sequence[Any]
) -> Any:
    """Returns what the function returns, but for statistics of norms that were folded in.

    Args:
      traced: the call.
      parts: of the tree.
      leaves: of the model's params; ShapeDtypeStructs of those that are fused away.
      arrays: of the inputs.

    Raises:
      CollapseError: as `CollapsibleFunction.__call__`.
    """
    execution = plan_execution(traced, parts)
    env = bind_arrays(traced, execution, parts, leaves, arrays)
    program = traced.analysis.program
    outs = [execution.instead.get(value, value) for value in program.outs]
    kept = [value for value in outs if value is not None]
    returned = iter(run_program(replace(program, outs=kept), execution.rewrites, env))
    tree = jax.tree.unflatten(traced.out, [0 if v is None else next(returned) for v in outs])
    pairs = zip(traced.out_paths, outs, strict=True)
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
