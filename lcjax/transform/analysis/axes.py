"""Roles of the axes of a value, followed through a program: tokens, or units of a Dense."""

from lcjax.transform.analysis.dependence import varying_axes
from lcjax.transform.ir.primitives import RESHAPES
from lcjax.transform.ir.program import Op, Value

# ("token", i), ("unit", j), ("expert", k) where kernels are stacked by expert, or None for an axis
# of size 1 without a role.
AxisRole = tuple[str, int] | None
AxisRoles = tuple[AxisRole, ...]


def axes_of(roles: AxisRoles, kind: str) -> frozenset[int]:
    """Returns the axes that hold tokens, or those that hold units."""
    return frozenset(axis for axis, role in enumerate(roles) if role and role[0] == kind)


def fixed_axes(roles: AxisRoles) -> frozenset[int]:
    """Returns the axes along which what belongs to a layer may differ: of units and experts."""
    return axes_of(roles, "unit") | axes_of(roles, "expert")


def roles_after(op: Op, roles: AxisRoles) -> AxisRoles | None:
    """Returns the roles after an operation that rearranges axes; None if they get lost."""
    if op.name == "transpose":
        return tuple(roles[axis] for axis in op.eqn.params["permutation"])
    return _kept(op.ins[0], op.outs[0], roles) if op.name in RESHAPES else roles


def roles_before(op: Op, value: Value, roles: AxisRoles) -> AxisRoles | None:
    """Returns the roles of an operand, given those of the result; None if they get lost."""
    if op.name == "transpose":
        permutation = list(op.eqn.params["permutation"])
        return tuple(roles[permutation.index(axis)] for axis in range(len(permutation)))
    return _kept(op.outs[0], value, roles) if op.name in RESHAPES else roles


def varies_by_unit(value: Value, roles: AxisRoles) -> bool:
    """Returns whether a value, of the same axes or a scalar, is the same for every token."""
    if not value.shape:
        return True
    return len(value.shape) == len(roles) and varying_axes(value) <= fixed_axes(roles)


def _kept(a: Value, b: Value, roles: AxisRoles) -> AxisRoles | None:
    """Returns b's roles, given a's, if their axes differ only by some of size 1."""
    sized = [(size, role) for size, role in zip(a.shape, roles, strict=True) if size != 1]
    if [size for size, _ in sized] != [size for size in b.shape if size != 1]:
        return None
    kept_roles = iter([role for _, role in sized])
    return tuple(next(kept_roles) if size != 1 else None for size in b.shape)
