"""Which methods of which modules a call runs, and with what."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from lcjax.nnx.functional import Path, module_function, node_at

_PATH = "lcjax_path"


@dataclass(frozen=True, eq=False)
class MethodCall:
    """A call of a method from outside of its module.

    Attributes:
      path: of the module.
      method: its name.
      module: the module in that call, of ShapeDtypeStructs: inside `nnx.scan` one layer.
      args: the arguments, with ShapeDtypeStructs for arrays.
      kwargs: those given by name.
    """

    path: Path
    method: str
    module: nnx.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Place:
    """The path of a module that is recorded.

    Each is another object, so that nested `nnx.jit` traces its function anew.
    """

    path: Path


_calls: ContextVar[list[MethodCall] | None] = ContextVar("calls", default=None)
_inside: ContextVar[frozenset[Path]] = ContextVar("inside", default=frozenset())


def record_calls(
    module: nnx.Module,
    paths: Collection[Path],
    method: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> list[MethodCall]:
    """Returns the calls of the methods of some modules, in order; nothing is computed.

    Args:
      module: the model.
      paths: of the modules in it.
      method: called as `method(module, *args, **kwargs)`.
      args: arguments of the call; arrays or ShapeDtypeStructs.
      kwargs: those given by name.
    """
    recorded = nnx.clone(module)
    for path in paths:
        node = node_at(recorded, path)
        setattr(node, _PATH, _Place(path))
        node.__class__ = _recording_class(type(node))
    call = module_function(recorded, method, args, kwargs)
    leaves, structure = jax.tree.flatten((call.args, call.kwargs))
    arrays = [leaf for leaf in leaves if hasattr(leaf, "dtype")]

    def run(params: Any, states: Any, arrays: Any) -> Any:
        rest = iter(arrays)
        given = [next(rest) if hasattr(leaf, "dtype") else leaf for leaf in leaves]
        args, kwargs = jax.tree.unflatten(structure, given)
        call.fn(params, states, *args, **kwargs)

    calls: list[MethodCall] = []
    token = _calls.set(calls)
    try:
        jax.eval_shape(run, call.params, call.states, arrays)
    finally:
        _calls.reset(token)
    return calls


@functools.cache
def _recording_class(base: type[nnx.Module]) -> type[nnx.Module]:
    """Returns the subclass of a module's class that records calls of its methods."""
    names: dict[str, Any] = {"recorded_base": base, "__module__": base.__module__}
    for klass in base.__mro__:
        if klass in nnx.Module.__mro__:
            break
        for name, value in vars(klass).items():
            if _is_method(name, value) and name not in names:
                names[name] = _recording(base, name)
    kind: Any = type(base)
    return kind(base.__name__, (base,), names)


def _is_method(name: str, value: Any) -> bool:
    hidden = name.startswith("__") and name != "__call__"
    other = isinstance(value, (type, staticmethod, classmethod, property))
    return not hidden and not other and callable(value) and hasattr(value, "__get__")


def _recording(base: type[nnx.Module], name: str) -> Callable[..., Any]:
    method = getattr(base, name)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls, place = _calls.get(), vars(self).get(_PATH)
        if calls is None or place is None or place.path in _inside.get():
            return method(self, *args, **kwargs)
        path = place.path
        given = abstracted((args, kwargs))
        calls.append(MethodCall(path, name, _own_classes(abstracted(self)), *given))
        token = _inside.set(_inside.get() | {path})
        try:
            return method(self, *args, **kwargs)
        finally:
            _inside.reset(token)

    return call


def abstracted(tree: Any) -> Any:
    """Returns arguments, or a module, with ShapeDtypeStructs for arrays."""

    def shape(leaf: Any) -> Any:
        if isinstance(leaf, nnx.Pytree):
            graph, state = nnx.split(leaf)
            return nnx.merge(graph, jax.tree.map(shape, state))
        if not hasattr(leaf, "dtype"):
            return leaf
        weak = getattr(jax.typeof(leaf), "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=weak)

    return jax.tree.map(shape, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Pytree))


def _own_classes(module: nnx.Module) -> nnx.Module:
    """Returns a module, changed in place: it and those inside have their own classes again."""
    for _, node in [*nnx.iter_graph(module)]:
        base = getattr(type(node), "recorded_base", None)
        if base is not None:
            delattr(node, _PATH)
            node.__class__ = base
    return module
