"""Outputs that a compact tree cannot compute: running statistics of norms that were folded in."""

from collections.abc import Collection, Mapping, Sequence

from lcjax.transform.ir.primitives import is_elementwise, is_passthrough
from lcjax.transform.ir.program import Op, Program, Region, Value, sources

# What is returned in the place of an output; None where nothing is.
Instead = Mapping[Value, Value | None]


def lost_outputs(
    program: Program,
    leaf_paths: Mapping[Value, str],
    out_paths: Mapping[Value, str],
    removed: Collection[Value],
    replaced: Collection[Op],
) -> Instead:
    """Returns the running statistics that need removed leaves, and what is returned for each.

    A statistic is updated from its own last value, element by element, `m ← ρ m + (1 − ρ) batch`.
    That value is returned unchanged if the call still has it, otherwise nothing is; so it goes
    with leaves that are handed back. Other outputs that need what is fused away are not among
    these.

    Args:
      program: of the call.
      leaf_paths: the encoded paths of the leaves of params and of state.
      out_paths: those of the outputs.
      removed: the leaves that were fused.
      replaced: operations that are substituted.
    """
    lost = set(removed)
    _spread(program.body, lost, set(replaced))
    instead: dict[Value, Value | None] = {}
    for out in dict.fromkeys(program.outs):
        if out in lost:
            last = _last_value(out, leaf_paths, out_paths[out])
            if last is not None:
                instead[out] = None if last in removed else last
    return instead


def _spread(body: Sequence[Op | Region], lost: set[Value], replaced: set[Op]) -> None:
    """Adds the values that are computed from lost ones."""
    for item in body:
        if isinstance(item, Op):
            if item not in replaced and not lost.isdisjoint(item.ins):
                lost.update(item.outs)
        elif item.kind in ("call", "remat", "branch"):
            _spread(item.body, lost, replaced)
        else:
            before = -1
            while before != len(lost):  # until what is carried loses no more
                before = len(lost)
                made = sources(item).items()
                lost.update(value for value, origins in made if not lost.isdisjoint(origins))
                _spread(item.body, lost, replaced)


def _last_value(out: Value, leaf_paths: Mapping[Value, str], path: str) -> Value | None:
    """Returns the leaf whose next value an output is; None if that is not known."""
    read: list[Value] = []
    seen, todo = {out}, [out]
    while todo:
        value = todo.pop()
        if value in leaf_paths and value.shape == out.shape:
            read.append(value)
        if isinstance(value.maker, Op) and (
            is_passthrough(value.maker) or is_elementwise(value.maker)
        ):
            todo += [each for each in value.maker.ins if each not in seen]
            seen.update(value.maker.ins)
    if not read:
        return None
    # A moving average may read several statistics: the names say which it updates.
    alike = [leaf for leaf in leaf_paths if leaf.shape == out.shape]
    named = [leaf for leaf in alike if "/" in leaf_paths[leaf] and _ends(path, leaf_paths[leaf])]
    found = named or read
    return found[0] if len(found) == 1 else None


def _ends(path: str, tail: str) -> bool:
    return f"/{path}".endswith(f"/{tail}")
