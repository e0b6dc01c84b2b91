"""The values that flow into and out of a Flax model's modules, whatever wraps them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from lcjax._jaxpr import bind
from lcjax.calibration.residual import Trails
from lcjax.errors import CollapseError

Values = dict[str, list[jax.Array]]

_MARK = "lcjax"
# Calls whose body may be evaluated in their place, by the names of their primitives.
_CALLS = frozenset(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call custom_vjp_call".split()
)


def into(path: str) -> str:
    """Returns the name of a module's input: the last array that its `__call__` is given."""
    return f"{_MARK}:in:{path}"


def out_of(path: str) -> str:
    """Returns the name of a module's output, the one array that its `__call__` returns."""
    return f"{_MARK}:out:{path}"


def beside(path: str) -> str:
    """Returns a name for what is added to a module's output, as residual connections do."""
    return f"{_MARK}:beside:{path}"


def capture(
    apply_fn: Callable[..., Any], variables: Any, batch: Sequence[Any], names: Collection[str]
) -> Values:
    """Returns the named values of `apply_fn(variables, *batch)`, one for every call of the module.

    Modules inside `nn.jit`, `nn.remat` and their like are seen too. What no name depends on is not
    computed where this is compiled: call it under `jax.jit`.

    Args:
      apply_fn: runs Flax linen modules; jitted or not.
      variables: its first argument.
      batch: its other arguments.
      names: made by `into`, `out_of` and `beside`; paths as modules know them, inside the top
        module. What stands beside an output may be nothing, and is laid out as the output is.

    Raises:
      CollapseError: when a named module is not called, or is called inside `nn.scan`, `jax.vmap`
        or another transform that changes what its values mean; names the path.
    """
    # JAX keeps traces by the function that is traced, so that a new one is given, and by the axes
    # in scope: this one, over which nothing runs, keeps apart what is traced here and what the
    # user's own jitted functions have cached.
    trace = jax.make_jaxpr(lambda *inputs: apply_fn(*inputs), axis_env=[(_MARK, 1)])
    with nn.intercept_methods(_name_values):
        closed = trace(variables, *batch)
    owners = [out_of(_path(name)) for name in names if name == beside(_path(name))]
    found: Values = {name: [] for name in [*owners, *names]}
    leaves = jax.tree.leaves((variables, *batch))
    _evaluate(closed.jaxpr, closed.consts, leaves, found, Trails())
    for name, values in found.items():
        if not values and name != beside(_path(name)):
            raise CollapseError(
                f"{_path(name)}: apply_fn does not call this module, so there is nothing to "
                "learn from. Run the whole model in apply_fn, or leave the site out of `sites`."
            )
    return found


def _name_values(next_fn, args, kwargs, context):
    """Names the input and the output of a module's call, each with its number of axes."""
    if context.method_name != "__call__" or not args or not _is_array(args[-1]):
        return next_fn(*args, **kwargs)
    path = "/".join(context.module.path)
    x = checkpoint_name(args[-1], f"{into(path)}:{args[-1].ndim}")
    y = next_fn(*args[:-1], x, **kwargs)
    return checkpoint_name(y, f"{out_of(path)}:{y.ndim}") if _is_array(y) else y


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray))


def _path(name: str) -> str:
    return name.split(":")[2]


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], found: Values, trails: Trails
) -> list[Any]:
    """Evaluates a jaxpr and adds the values whose names are asked for to those found."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env |= dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        inside = [name for inner, _ in _inner(eqn) for name in _asked(inner, found)]
        if eqn.primitive.name == "name":
            results = operands
            for name in _asked_of(eqn, found):
                _check_axes(name, eqn.params["name"], operands[0])
                found[name].append(operands[0])
                other = beside(_path(name))
                if name == out_of(_path(name)) and other in found:
                    trails.start(other, operands[0])
        elif inside and eqn.primitive.name in _CALLS:
            ((inner, inner_consts),) = _inner(eqn)
            results = _evaluate(inner, inner_consts, operands, found, trails)
        elif inside:
            raise CollapseError(
                f"{_path(inside[0])}: stands inside `{eqn.primitive.name}`, from which values "
                "cannot be taken. Unstack the layers, or collapse with fit='exact'."
            )
        else:
            if (added := trails.beside(eqn, operands)) is not None:
                found[added[0]].append(added[1])
            results = bind(eqn, operands)
        trails.follow(eqn, operands, results)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _asked_of(eqn: Any, found: Values) -> list[str]:
    """Returns the name that an equation gives, if it is among those asked for."""
    name = eqn.params["name"].rpartition(":")[0] if eqn.primitive.name == "name" else ""
    return [name] if name in found else []


def _asked(jaxpr: Any, found: Values) -> Iterator[str]:
    """Yields the names asked for that a jaxpr, or one inside it, gives."""
    for eqn in jaxpr.eqns:
        yield from _asked_of(eqn, found)
        for inner, _ in _inner(eqn):
            yield from _asked(inner, found)


def _inner(eqn: Any) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Yields the jaxprs inside an equation, each with its constants."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr, part.consts
            elif isinstance(part, core.Jaxpr):
                yield part, ()


def _check_axes(name: str, named: str, value: Any):
    if value.ndim != int(named.rpartition(":")[2]):
        raise CollapseError(
            f"{_path(name)}: its values have shape {value.shape}, an axis more than the module "
            "sees: it runs inside vmap. Give the module whole batches."
        )
