"""Modules whose method runs with slopes and fused layers."""

import copyreg
import functools
from typing import Any

import jax
from flax import nnx

from lcjax.nnx.arguments import argument_leaves
from lcjax.nnx.calls.owners import Part, traced_owner
from lcjax.nnx.calls.recording import MethodCall, abstracted
from lcjax.nnx.forms.affine import affine_of, was_seen
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
from lcjax.tree.fused_key import FusedKey

_MOST_CALLS = 4096
_affine_calls: dict[Any, bool] = {}  # of which it is known whether they are one affine map


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
                return rewritten.linear(x, rewritten.affine.layers, rewritten.affine.out)
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


def _affine_input(module: Any, method: Any, affine: Any, args: Any, kwargs: Any) -> Any:
    """Returns the input of a method that is an affine map; None where it has to be traced."""
    leaves = argument_leaves(module, method, args, kwargs)
    others = tuple(... if hasattr(leaf, "dtype") else leaf for leaf in leaves)
    if others != affine.others or str(leaves[affine.leaf].dtype) != affine.dtype:
        return None
    known = was_seen(affine, module, leaves) or _is_affine(module, args, kwargs)
    return leaves[affine.leaf] if known else None


def _is_affine(module: Any, args: Any, kwargs: Any) -> bool:
    """Returns whether a method is the affine map for these shapes and attributes of its module.

    Its Python code may branch on both, so that each combination is traced once.
    """
    graph, state = nnx.split(module)
    arrays = [leaf for leaf in jax.tree.leaves((state, args, kwargs)) if hasattr(leaf, "dtype")]
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in arrays)
    key = (graph, jax.tree.structure((args, kwargs)), shapes)
    try:
        known = _affine_calls.get(key)
    except TypeError:  # an attribute that cannot be hashed
        return _traces_as_affine(module, args, kwargs)
    if known is None:
        known = _traces_as_affine(module, args, kwargs)
        if len(_affine_calls) >= _MOST_CALLS:
            _affine_calls.clear()
        _affine_calls[key] = known
    return known


def _traces_as_affine(module: Any, args: Any, kwargs: Any) -> bool:
    rewritten = getattr(module, ATTRIBUTE)
    deep = nnx.clone(module)
    restore_deep(deep)
    entry = rewritten.linear
    run = MethodCall((), rewritten.method, abstracted(deep), *abstracted((args, kwargs)))
    part = Part(entry.key, FusedKey.parse(entry.key), entry.tree, 0)
    try:
        with jax.disable_jit(False):
            owner = traced_owner(run)
        owner.parts.append(part)
        return rewritten.affine.is_map_of(affine_of(owner))
    except Exception:  # the code takes no such input, which its trace reports
        return False


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
