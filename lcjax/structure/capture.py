"""The inputs and outputs of a Flax model's modules, whatever wraps the modules."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from lcjax._jaxpr import bind, inner_jaxprs
from lcjax.errors import CollapseError
from lcjax.structure.residual import ResidualTracker

_MARK = "lcjax"
# Calls whose body may be evaluated in their place, by the names of their primitives.
_CALLS = frozenset(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call custom_vjp_call".split()
)


class ValueName(NamedTuple):
    """Which value of a module's call.

    Attributes:
      kind: "input" is the last array that its `__call__` takes, "output" the one array that it
        returns, "residual" what the model adds to the output.
      path: of the module, inside the top module.
    """

    kind: Literal["input", "output", "residual"]
    path: str


Values = dict[ValueName, list[jax.Array]]
Shifts = Values  # what is added to the values


def capture(
    apply_fn: Callable[..., Any],
    variables: Any,
    batch: Sequence[Any],
    names: Collection[ValueName],
) -> Values:
    """Returns the named values of `apply_fn(variables, *batch)`, one for every call of the module.

    It looks into modules inside `nn.jit`, `nn.remat` and similar transforms too. Call it under
    `jax.jit`: then values on which no name depends are not computed.

    Args:
      apply_fn: runs Flax linen modules; jitted or not.
      variables: its first argument.
      batch: its other arguments.
      names: of the values. A residual may be missing from the model; then its list is empty. It has
        the layout of the output.

    Raises:
      CollapseError: when a named module is not called, or is called inside `nn.scan`, `jax.vmap`
        or another transform that changes the meaning of its values; names the path.
    """
    return _trace(apply_fn, variables, batch)(names, {})[1]


def capture_gradients(
    apply_fn: Callable[..., Any],
    variables: Any,
    batch: Sequence[Any],
    names: Collection[ValueName],
    pull: Callable[[Any], Any],
) -> Values:
    """Returns what a cotangent of the output becomes at named outputs of modules; as `capture`.

    Args:
      apply_fn: runs Flax linen modules; jitted or not.
      variables: its first argument.
      batch: its other arguments.
      names: of outputs; the gradient of each has the shape and dtype of its value.
      pull: returns the cotangent, given the output of apply_fn.

    Raises:
      CollapseError: as `capture`.
    """
    run = _trace(apply_fn, variables, batch)
    values = run(names, {})[1]
    zeros = jax.tree.map(jnp.zeros_like, values)
    output, gradients = jax.vjp(lambda shifts: run(names, shifts)[0], zeros)
    return gradients(pull(output))[0]


def _trace(
    apply_fn: Callable[..., Any], variables: Any, batch: Sequence[Any]
) -> Callable[[Collection[ValueName], Shifts], tuple[Any, Values]]:
    """Returns a function that runs a model and returns its output and named values.

    It takes the names, and what is added to some of the values, for every call of their module.
    """
    # JAX caches traces by the traced function, so this traces a new one, and by the axes in scope:
    # this axis, over which nothing runs, separates this trace from the caches of the user's own
    # jitted functions.
    trace = jax.make_jaxpr(
        lambda *inputs: apply_fn(*inputs), axis_env=[(_MARK, 1)], return_shape=True
    )
    with nn.intercept_methods(_name_values):
        closed, shape = trace(variables, *batch)
    leaves = jax.tree.leaves((variables, *batch))

    def run(names: Collection[ValueName], shifts: Shifts) -> tuple[Any, Values]:
        outputs = [ValueName("output", name.path) for name in names if name.kind == "residual"]
        evaluation = _Evaluation({name: [] for name in [*outputs, *names]}, shifts)
        results = evaluation.run(closed.jaxpr, closed.consts, leaves)
        for name, values in evaluation.found.items():
            if not values and name.kind != "residual":
                raise CollapseError(
                    f"{name.path}: apply_fn does not call this module, so it has no values to fit. "
                    "Run the whole model in apply_fn, or leave the site out of `sites`."
                )
        return jax.tree.unflatten(jax.tree.structure(shape), results), evaluation.found

    return run


def _name_values(next_fn, args, kwargs, context):
    """Names the input and the output of a module's call."""
    if context.method_name != "__call__" or not args or not _is_array(args[-1]):
        return next_fn(*args, **kwargs)
    path = "/".join(context.module.path)
    x = checkpoint_name(args[-1], _encode(ValueName("input", path), args[-1]))
    y = next_fn(*args[:-1], x, **kwargs)
    return checkpoint_name(y, _encode(ValueName("output", path), y)) if _is_array(y) else y


def _encode(name: ValueName, value: Any) -> str:
    """Returns a value's name and number of axes as text."""
    return f"{_MARK}:{name.kind}:{name.path}:{value.ndim}"


def _decode(text: str) -> tuple[ValueName, int] | None:
    """Returns the name and number of axes that `_encode` wrote; None of another name."""
    if not text.startswith(f"{_MARK}:"):
        return None
    _, kind, rest = text.split(":", 2)
    path, _, ndim = rest.rpartition(":")
    return ValueName(kind, path), int(ndim)  # type: ignore[arg-type]


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray))


class _Evaluation:
    """One evaluation of a traced model.

    Args:
      found: by name, a list to which its values are added.
      shifts: what is added to values, by name, for every call; those that are missing stay.
    """

    def __init__(self, found: Values, shifts: Shifts):
        self.found, self._shifts, self._tracker = found, shifts, ResidualTracker()

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Returns the results of a jaxpr, and adds the named values in it to `found`."""
        env = dict(zip(jaxpr.constvars, consts, strict=True))
        env |= dict(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            results = self._results(eqn, operands)
            self._tracker.follow(eqn, operands, results)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, eqn: Any, operands: list[Any]) -> list[Any]:
        found = self.found
        if eqn.primitive.name == "name":
            for name, ndim in _names_of(eqn, found):
                _check_axes(name, ndim, operands[0])
                operands = [self._add(name, operands[0])]
            return operands
        inside = [name for inner, _ in inner_jaxprs(eqn) for name in _names_in(inner, found)]
        if inside and eqn.primitive.name in _CALLS:
            ((inner, consts),) = inner_jaxprs(eqn)
            return self.run(inner, consts, operands)
        if inside:
            raise CollapseError(
                f"{inside[0].path}: is inside `{eqn.primitive.name}`, from which values cannot be "
                "taken. Unstack the layers, or collapse with fit=lcjax.Exact()."
            )
        if (added := self._tracker.added(eqn, operands)) is not None:
            found[added[0]].append(added[1])  # type: ignore[index]
        return bind(eqn, operands)

    def _add(self, name: ValueName, value: Any) -> Any:
        """Adds a value to those found, and returns it shifted."""
        values, shifts = self.found[name], self._shifts.get(name)
        if shifts is not None:
            value = value + shifts[len(values)]
        values.append(value)
        residual = ValueName("residual", name.path)
        if name.kind == "output" and residual in self.found:
            self._tracker.start(residual, value)
        return value


def _names_of(eqn: Any, found: Values) -> list[tuple[ValueName, int]]:
    """Returns the name that an equation gives, if it is among those to find."""
    decoded = _decode(eqn.params["name"]) if eqn.primitive.name == "name" else None
    return [decoded] if decoded is not None and decoded[0] in found else []


def _names_in(jaxpr: Any, found: Values) -> Iterator[ValueName]:
    """Yields the names to find that a jaxpr, or one inside it, gives."""
    for eqn in jaxpr.eqns:
        yield from (name for name, _ in _names_of(eqn, found))
        for inner, _ in inner_jaxprs(eqn):
            yield from _names_in(inner, found)


def _check_axes(name: ValueName, ndim: int, value: Any):
    if value.ndim != ndim:
        raise CollapseError(
            f"{name.path}: its values have shape {value.shape}, with more axes than the module "
            f"sees ({ndim}): it runs inside vmap. Give the module whole batches."
        )
