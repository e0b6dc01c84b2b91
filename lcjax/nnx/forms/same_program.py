"""Whether two widths of a module run the same program."""

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.extend import core

from lcjax._jaxpr import inner_jaxprs
from lcjax.nnx.calls.recording import MethodCall
from lcjax.nnx.functional import module_function
from lcjax.transform.ir.updates import Update


def same_program(run: MethodCall, first: nnx.Module, second: nnx.Module) -> bool:
    """Returns whether a method runs the same operations on two modules of different widths.

    Constants count too: a mean over the units divides by their number.

    Args:
      run: the call of the method.
      first: a module of ShapeDtypeStructs.
      second: the same module with other shapes.
    """
    try:
        return _operations(run, first) == _operations(run, second)
    except Exception:  # code that fixes the width
        return False


def _operations(run: MethodCall, module: nnx.Module) -> list[Any]:
    call = module_function(module, getattr(type(module), run.method), run.args, run.kwargs)
    leaves, structure = jax.tree.flatten((call.args, call.kwargs))
    arrays = [leaf for leaf in leaves if hasattr(leaf, "dtype")]

    def function(params: Any, states: Any, arrays: Any) -> Any:
        rest = iter(arrays)
        given = [next(rest) if hasattr(leaf, "dtype") else leaf for leaf in leaves]
        args, kwargs = jax.tree.unflatten(structure, given)
        return call.fn(params, states, *args, **kwargs)

    closed, out = jax.make_jaxpr(function, return_shape=True)(call.params, call.states, arrays)
    return [jax.tree.map(_returned, out, is_leaf=_is_update), _listed(closed.jaxpr)]


def _is_update(node: Any) -> bool:
    return isinstance(node, Update)


def _returned(leaf: Any) -> Any:
    """Returns what has to be the same of an output; kernels that are written back differ."""
    if isinstance(leaf, Update):
        return leaf.new.shape == leaf.old.shape, leaf.new.dtype
    return leaf.shape, leaf.dtype


def _listed(jaxpr: Any) -> list[Any]:
    """Returns the operations of a jaxpr, with their scalar constants and settings."""
    found: list[Any] = []
    for eqn in jaxpr.eqns:
        constants = [
            np.asarray(atom.val).tolist()
            for atom in eqn.invars
            if isinstance(atom, core.Literal) and np.ndim(atom.val) == 0
        ]
        scalars = {k: v for k, v in eqn.params.items() if isinstance(v, (bool, float, str))}
        powers = eqn.params.get("y") if eqn.primitive.name == "integer_pow" else None
        inner = [_listed(each) for each, _ in inner_jaxprs(eqn)]
        found.append((eqn.primitive.name, constants, scalars, powers, inner))
    return found
