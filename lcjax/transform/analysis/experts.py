"""Kernels that are stacked by expert: one layer for every expert, member or position.

`td,edh->teh` is a product with one kernel of units (e, h), until `teh,ehd->ted` shows that e counts
experts.
"""

from collections.abc import Mapping
from dataclasses import replace

from lcjax.transform.analysis.axes import AxisRole, AxisRoles, axes_of, roles_before
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.ir.primitives import RESHAPES, is_elementwise
from lcjax.transform.ir.program import Op, Value

_MOST = 3  # layers before one of experts: gate and value


def with_experts(denses: Mapping[Value, DenseOp]) -> dict[Value, DenseOp]:
    """Returns the Dense layers, those before a layer of experts as layers of experts too."""
    found = dict(denses)
    for product in reversed(
        list(denses)
    ):  # the layer before one that is found to be of experts, too
        down = found[product]
        if not down.x_experts:
            continue
        for up, roles in _layers_before(down, found):
            if not up.kernel_experts:
                found[up.product.outs[0]] = _of_experts(up, roles) or up
    return found


def _layers_before(
    down: DenseOp, denses: Mapping[Value, DenseOp]
) -> list[tuple[DenseOp, AxisRoles]]:
    """Returns the layers that a Dense reads unit by unit, each with the roles of its output."""
    by_out = dict(denses) | {dense.out: dense for dense in denses.values()}
    experts: dict[int, AxisRole] = {axis: ("expert", i) for i, axis in enumerate(down.x_experts)}
    roles = tuple(experts.get(axis) for axis in range(len(down.x.shape)))
    found: list[tuple[DenseOp, AxisRoles]] = []
    seen, todo = set(), [(down.x, roles)]
    while todo and len(found) < _MOST:
        value, roles = todo.pop()
        op = value.maker
        if value in seen:
            continue
        seen.add(value)
        if value in by_out:
            found.append((by_out[value], roles))
        elif isinstance(op, Op) and (op.name in RESHAPES or op.name in ("slice", "split")):
            earlier = roles_before(op, op.ins[0], roles)
            kept = earlier is not None and axes_of(earlier, "expert")
            todo += [(op.ins[0], earlier)] if earlier is not None and kept else []
        elif isinstance(op, Op) and is_elementwise(op):
            todo += [(each, roles) for each in op.ins if each.shape == value.shape]
    return found


def _of_experts(up: DenseOp, roles: AxisRoles) -> DenseOp | None:
    """Returns a Dense as one of experts, given which axes of its output are; None if they are not.

    They are axes of its units: all experts read the same input.
    """
    number_of: dict[int, int] = {}  # of its units, which experts they are
    for own, role in zip(up.roles, roles, strict=True):
        if role and (own is None or own[0] != "unit"):
            return None
        if role and own:
            number_of[own[1]] = role[1]
    rest = [unit for unit in range(len(up.kernel_out)) if unit not in number_of]
    counted: list[AxisRole] = []
    for own in up.roles:
        if own and own[0] == "unit":
            unit = own[1]
            if unit in number_of:
                own = ("expert", number_of[unit])
            else:
                own = ("unit", rest.index(unit))
        counted.append(own)
    experts = sorted(number_of, key=lambda unit: number_of[unit])
    return replace(
        up,
        kernel_experts=tuple(up.kernel_out[unit] for unit in experts),
        kernel_out=tuple(up.kernel_out[unit] for unit in rest),
        roles=tuple(counted),
    )
