"""A function's jaxpr as a program that can be searched and rewritten.

Calls are opened, so that every operation is visible, and recorded as regions, so that code that is
not rewritten still runs as the same call. Every value is one object and lists its users.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jax.extend import core

_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
_REMATS = frozenset({"remat", "remat2", "checkpoint"})


@dataclass(eq=False, repr=False)
class Value:
    """One array of a program.

    Attributes:
      aval: its shape and dtype.
      maker: the operation that returns it, or the scan that returns it or passes it to its body;
        None for inputs of the program and for constants.
      constant: its array, if that is known; else None.
      layer_of: in the body of a scan, the stacked value outside of which this is one layer.
      users: the operations that read it, the scans that carry or return it, the values that are
        layers of it, and the program, if it is returned. Only users that an output depends on.
    """

    aval: Any
    maker: "Op | Region | None" = None
    constant: Any = None
    layer_of: "Value | None" = None
    users: "list[Op | Region | Value | Program]" = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array; () for values without one."""
        return tuple(getattr(self.aval, "shape", ()))


@dataclass(eq=False, repr=False)
class Op:
    """One operation: an equation that is not a call, with its operands and results."""

    eqn: Any
    scope: "Region | None"
    ins: list[Value]
    outs: list[Value] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.eqn.primitive.name


@dataclass(eq=False, repr=False)
class Region:
    """A call, a rematerialised call, a loop or a condition, with the operations inside.

    Operands and results of a call are the same values inside and outside. So are the constants of
    a loop and the operands of a condition; the carry and layers of a loop, and the results of both,
    are separate values inside. The body of a condition is its branches; that of a while loop its
    test and its step, as two branches.

    Attributes:
      kind: which it is.
      body: operations and regions, in order.
      ins: operands.
      outs: results.
      starts: of a loop, the initial carry.
      carried: of a loop, the carry inside its body.
      layers: of a scan, the values inside that are layers, each with the value outside.
      returned: of a loop, the values that its body returns, the carry first; of a while loop then
        its test.
    """

    eqn: Any
    scope: "Region | None"
    kind: Literal["call", "remat", "scan", "while", "cond", "branch"]
    ins: list[Value]
    body: "list[Op | Region]" = field(default_factory=list)
    outs: list[Value] = field(default_factory=list)
    starts: list[Value] = field(default_factory=list)
    carried: list[Value] = field(default_factory=list)
    layers: dict[Value, Value] = field(default_factory=dict)
    returned: list[Value] = field(default_factory=list)


@dataclass(eq=False, repr=False)
class Program:
    """A whole function.

    Attributes:
      leaves: the values that hold the params' leaves, in the order of the tree.
      inputs: the values that hold the other arguments' leaves.
      state: those of the inputs that are state: fixed as params are, but not trained.
      body: operations and regions, in order.
      outs: its outputs.
    """

    leaves: list[Value]
    inputs: list[Value]
    body: list[Op | Region]
    outs: list[Value]
    state: list[Value] = field(default_factory=list)

    def ops(self) -> Iterator[Op]:
        """Yields every operation in the order in which they run."""
        return ops_in(self.body)


def ops_in(body: Sequence[Op | Region]) -> Iterator[Op]:
    """Yields the operations of a body and of the regions in it, in order."""
    for item in body:
        if isinstance(item, Op):
            yield item
        else:
            yield from ops_in(item.body)


def branches_of(region: Region) -> list[Region]:
    """Returns the branches of a condition, or the step and the test of a while loop."""
    return [item for item in region.body if isinstance(item, Region)]


def blocks_around(item: Op | Region) -> list[Region]:
    """Returns the loops and branches around an operation, the outermost first.

    Their values cannot be taken outside, but for results.
    """
    blocks, scope = [], item.scope
    while scope is not None:
        if scope.kind in ("scan", "branch"):
            blocks.insert(0, scope)
        scope = scope.scope
    return blocks


def scans_around(item: Op | Region) -> list[Region]:
    """Returns the scans around an operation, the outermost first."""
    scans, scope = [], item.scope
    while scope is not None:
        if scope.kind == "scan":
            scans.insert(0, scope)
        scope = scope.scope
    return scans


def made_of(value: Value) -> list[Value]:
    """Returns the values that one is computed from directly, or the stack that it is a layer of."""
    operands = value.maker.ins if isinstance(value.maker, Op) else []
    return [*operands, *([] if value.layer_of is None else [value.layer_of])]


def ancestors(
    value: Value, before: Callable[[Value], Iterable[Value]] = made_of
) -> Iterator[Value]:
    """Yields a value and all values before it, each once.

    Args:
      value: the last.
      before: the values from which to go on at each.
    """
    seen, todo = set(), [value]
    while todo:
        value = todo.pop()
        if value not in seen:
            seen.add(value)
            yield value
            todo += before(value)


def open_program(closed: Any, n_leaves: int, n_state: int = 0) -> Program:
    """Returns a closed jaxpr as a program.

    Args:
      closed: its first arguments are the leaves of the params, the next those of the state.
      n_leaves: number of leaves of the params.
      n_state: number of leaves of the state.
    """
    given = [Value(var.aval) for var in closed.jaxpr.invars]
    body, outs = _open(closed.jaxpr, _constants(closed), given, None)
    inputs = given[n_leaves:]
    program = Program(given[:n_leaves], inputs, body, outs, inputs[:n_state])
    _list_users(program)
    return program


def _constants(closed: Any) -> list[Value]:
    pairs = zip(closed.jaxpr.constvars, closed.consts, strict=True)
    return [Value(var.aval, constant=constant) for var, constant in pairs]


def _open(
    jaxpr: Any, constants: Sequence[Value], given: Sequence[Value], scope: Region | None
) -> tuple[list[Op | Region], list[Value]]:
    """Returns the body of a jaxpr and the values it returns."""
    env: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
    env |= dict(zip(jaxpr.invars, given, strict=True))

    def read(atom: Any) -> Value:
        if not isinstance(atom, core.Literal):
            return env[atom]
        aval: Any = atom.aval
        return Value(aval, constant=np.asarray(atom.val, aval.dtype))

    body: list[Op | Region] = []
    for eqn in jaxpr.eqns:
        item = _open_eqn(eqn, [read(atom) for atom in eqn.invars], scope)
        body.append(item)
        env.update(zip(eqn.outvars, item.outs, strict=True))
    return body, [read(atom) for atom in jaxpr.outvars]


def _open_eqn(eqn: Any, ins: list[Value], scope: Region | None) -> Op | Region:
    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS or name in _REMATS:
        region = Region(eqn, scope, "call" if name in _CALLS else "remat", ins)
        jaxpr, constants = _inner(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"])
        region.body, region.outs = _open(jaxpr, constants, ins, region)
        return region
    if name == "scan":
        return _open_scan(Region(eqn, scope, "scan", ins))
    if name == "while":
        return _open_while(Region(eqn, scope, "while", ins))
    if name == "cond":
        return _open_cond(Region(eqn, scope, "cond", ins))
    op = Op(eqn, scope, ins)
    op.outs = [Value(var.aval, op) for var in eqn.outvars]
    return op


def _open_scan(region: Region) -> Region:
    jaxpr, constants = _inner(region.eqn.params["jaxpr"])
    # Layers have one axis less inside; the carry has the same shape. The parameters of the equation
    # have the numbers too, but JAX has changed their form.
    pairs = list(zip(jaxpr.invars, region.ins, strict=True))
    layered = [(var, value) for var, value in pairs if len(var.aval.shape) < len(value.shape)]
    results = zip(jaxpr.outvars, region.eqn.outvars, strict=True)
    n_carried = sum(len(inner.aval.shape) == len(out.aval.shape) for inner, out in results)
    first_layer = len(pairs) - len(layered)
    n_shared = first_layer - n_carried
    region.starts = region.ins[n_shared:first_layer]
    region.carried = [Value(var.aval, region) for var in jaxpr.invars[n_shared:first_layer]]
    region.layers = {Value(var.aval, region, layer_of=value): value for var, value in layered}
    given = [*region.ins[:n_shared], *region.carried, *region.layers]
    region.body, region.returned = _open(jaxpr, constants, given, region)
    region.outs = [Value(var.aval, region) for var in region.eqn.outvars]
    return region


def _open_while(region: Region) -> Region:
    params = region.eqn.params
    n_test, n_step = params["cond_nconsts"], params["body_nconsts"]
    test, step = region.ins[:n_test], region.ins[n_test : n_test + n_step]
    region.starts = region.ins[n_test + n_step :]
    region.carried = [Value(value.aval, region) for value in region.starts]
    for jaxpr, constants in ((params["body_jaxpr"], step), (params["cond_jaxpr"], test)):
        branch = _open_branch(region, jaxpr, [*constants, *region.carried])
        region.body.append(branch)
        region.returned += branch.outs
    region.outs = [Value(var.aval, region) for var in region.eqn.outvars]
    return region


def _open_cond(region: Region) -> Region:
    branches = region.eqn.params["branches"]
    region.body = [_open_branch(region, branch, region.ins[1:]) for branch in branches]
    region.outs = [Value(var.aval, region) for var in region.eqn.outvars]
    return region


def _open_branch(scope: Region, closed: Any, given: Sequence[Value]) -> Region:
    branch = Region(scope.eqn, scope, "branch", list(given))
    jaxpr, constants = _inner(closed)
    branch.body, branch.outs = _open(jaxpr, constants, given, branch)
    return branch


def _inner(jaxpr: Any) -> tuple[Any, list[Value]]:
    closed = isinstance(jaxpr, core.ClosedJaxpr)
    return (jaxpr.jaxpr, _constants(jaxpr)) if closed else (jaxpr, [])


def sources(region: Region) -> Mapping[Value, list[Value]]:
    """Returns the origins of every value that a loop or condition returns or passes to its body.

    If any result of a loop is used, its whole carry is.
    """
    if region.kind == "cond":
        results = zip(*(branch.outs for branch in branches_of(region)), strict=True)
        pairs = zip(region.outs, results, strict=True)
        return {out: [region.ins[0], *inner] for out, inner in pairs}
    n_carried = len(region.carried)
    carried = [*region.starts, *region.returned[:n_carried]]
    if region.kind == "while":
        carried = [*region.starts, *region.returned]
        return dict.fromkeys([*region.carried, *region.outs], carried)
    made = dict.fromkeys([*region.carried, *region.outs[:n_carried]], carried)
    for out, inner in zip(region.outs[n_carried:], region.returned[n_carried:], strict=True):
        made[out] = [*carried, inner]
    return made | {layer: [outside] for layer, outside in region.layers.items()}


def _list_users(program: Program) -> None:
    """Fills in the users of every value, going backwards from outputs and effects."""
    todo: list[Value] = []
    done: set[Any] = set()
    made: dict[Region, Mapping[Value, list[Value]]] = {}

    def use(user: Any, values: Sequence[Value]) -> None:
        for value in values:
            if not value.users or value.users[-1] is not user:
                value.users.append(user)
        todo.extend(values)

    def use_once(op: Op) -> None:
        if op not in done:
            done.add(op)
            use(op, op.ins)

    use(program, program.outs)
    for op in program.ops():
        if op.eqn.effects:
            use_once(op)
    while todo:
        value = todo.pop()
        maker = value.maker
        if isinstance(maker, Op):
            use_once(maker)
        elif maker is not None and value not in done:
            done.add(value)
            made[maker] = made.get(maker) or sources(maker)
            use(maker if value.layer_of is None else value, made[maker][value])
