"""Modules whose method runs with slopes and fused layers."""

import copyreg
import functools
import inspect
from typing import Any

import jax
from flax import nnx

from lcjax.nnx.functional import (
    apply_changes,
    as_path,
    module_function,
    modules_in,
    node_at,
    put,
)
from lcjax.nnx.rewritten import ATTRIBUTE, Rewritten
from lcjax.transform.function import CollapsibleFunction


@functools.cache
def rewritten_class(base: type[nnx.Module], method: str) -> type[nnx.Module]:
    """Returns the subclass of a module's class of which one method runs with `lcjax`.

    Everything else is the module's own: attributes, other methods, its type.
    """
    own = getattr(base, method)

    @functools.wraps(own)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        rewritten = getattr(self, ATTRIBUTE)
        if rewritten.affine is not None:
            x = _affine_input(self, own, rewritten.affine, args, kwargs)
            if x is not None:
                return rewritten.linear(x, rewritten.affine)
        return _traced(self, own, args, kwargs)

    names = {
        method: call,
        "lcjax_base": base,
        "lcjax_method": method,
        "__module__": base.__module__,
        "__qualname__": f"Collapsed{base.__qualname__}",
        "__doc__": base.__doc__,
    }
    kind: Any = _metaclass(type(base))
    return kind(f"Collapsed{base.__name__}", (base,), names)


@functools.cache
def _metaclass(base: type) -> type:
    """Returns the metaclass of such subclasses, which pickles them: no module has their names."""
    made = type(base.__name__, (base,), {})
    copyreg.pickle(made, _reduced)
    return made


def _reduced(cls: Any) -> tuple[Any, ...]:
    return rewritten_class, (cls.lcjax_base, cls.lcjax_method)


def is_rewritten(node: Any) -> bool:
    """Returns whether a node of a module's graph has slopes or fused layers."""
    return isinstance(node, nnx.Module) and isinstance(vars(node).get(ATTRIBUTE), Rewritten)


def restore_deep(module: Any) -> None:
    """Gives a module back its own class, with ShapeDtypeStructs for Params that were removed."""
    rewritten = getattr(module, ATTRIBUTE)
    delattr(module, ATTRIBUTE)
    module.__class__ = module.lcjax_base
    for name, shape in rewritten.removed.items():
        path = as_path(name)
        put(node_at(module, path[:-1]), path[-1], nnx.Param(shape))


def argument_leaves(module: Any, method: Any, args: Any, kwargs: Any) -> list[Any]:
    """Returns the leaves of all arguments of a method, defaults included, in one order."""
    bound = inspect.signature(method).bind(module, *args, **kwargs)
    bound.apply_defaults()
    first, *_ = bound.arguments
    given = {name: value for name, value in bound.arguments.items() if name != first}
    return jax.tree.leaves(given, is_leaf=lambda leaf: leaf is None)


def _affine_input(module: Any, method: Any, affine: Any, args: Any, kwargs: Any) -> Any:
    """Returns the input of a method that is an affine map; None where it has to be traced."""
    leaves = argument_leaves(module, method, args, kwargs)
    others = tuple(... if hasattr(leaf, "dtype") else leaf for leaf in leaves)
    if others != affine.others or str(leaves[affine.leaf].dtype) != affine.dtype:
        return None
    return leaves[affine.leaf]


def _traced(module: Any, method: Any, args: Any, kwargs: Any) -> Any:
    tree = getattr(module, ATTRIBUTE).tree
    deep = nnx.clone(module)
    restore_deep(deep)
    call = module_function(deep, method, args, kwargs)
    params = {"model": _with_values(call.params), **tree}
    out, changes = CollapsibleFunction(call.fn, has_state=True)(
        params, call.states, *call.args, **call.kwargs
    )
    apply_changes(call, [module, *modules_in(args, kwargs)], changes)
    return out


def _with_values(params: Any) -> Any:
    """Returns nested dicts without the leaves that are ShapeDtypeStructs."""
    kept = {}
    for name, node in params.items():
        if isinstance(node, dict):
            inner = _with_values(node)
            kept |= {name: inner} if inner else {}
        elif not isinstance(node, jax.ShapeDtypeStruct):
            kept[name] = node
    return kept
