"""A call of a function with the tree that it is given."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax

from lcjax.transform.ir.interpreter import run_program
from lcjax.transform.lowering.execution_plan import environment, schedule_of
from lcjax.transform.matching.tracing import Traced
from lcjax.transform.params.tree import Parts, without


def call(traced: Traced, parts: Parts, leaves: Sequence[Any], arrays: Sequence[Any]) -> Any:
    """Returns what the function returns, but for statistics of norms that were folded in.

    Args:
      traced: the call.
      parts: of the tree.
      leaves: of the model's params; ShapeDtypeStructs of those that are fused away.
      arrays: of the inputs.

    Raises:
      CollapseError: as `CollapsibleFunction.__call__`.
    """
    schedule = schedule_of(traced, parts)
    env = environment(traced, schedule, parts, leaves, arrays)
    program = traced.found.program
    outs = [schedule.instead.get(value, value) for value in program.outs]
    kept = [value for value in outs if value is not None]
    returned = iter(run_program(replace(program, outs=kept), schedule.plan, env))
    tree = jax.tree.unflatten(traced.out, [0 if v is None else next(returned) for v in outs])
    pairs = zip(traced.out_paths, outs, strict=True)
    dropped = {path for path, value in pairs if value is None}
    return _without(tree, dropped) if dropped else tree


def _without(tree: Any, dropped: set[str]) -> Any:
    """Returns outputs without some leaves; a tuple keeps its length."""
    if type(tree) is not tuple:
        return None if "" in dropped else without(tree, dropped)
    parts = []
    for i, part in enumerate(tree):
        inside = {path.removeprefix(f"[{i}]") for path in dropped if path.startswith(f"[{i}]")}
        parts.append(_without(part, {path.removeprefix("/") for path in inside}))
    return tuple(parts)
