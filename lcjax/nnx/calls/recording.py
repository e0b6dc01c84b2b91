"""Which methods of which modules a call runs, and with what."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from lcjax.nnx.functional import Path

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


def recordable(module: nnx.Module) -> nnx.Module:
    """Returns a copy of a model whose modules record calls inside `recorded`.

    Those are recorded that contain several kernels, and the model itself.
    """
    copy = nnx.clone(module)
    flat = nnx.to_flat_state(nnx.state(copy, nnx.Param))
    kernels = [path for path, leaf in flat if len(getattr(leaf, "shape", ())) > 1]
    counts = Counter(path[:end] for path in kernels for end in range(len(path)))
    modules = {path: node for path, node in nnx.iter_graph(copy) if is_callable_module(node)}
    for path in {(), *(path for path, count in counts.items() if count > 1)} & modules.keys():
        setattr(modules[path], _PATH, _Place(path))
        modules[path].__class__ = _recording_class(type(modules[path]))
    return copy


@contextmanager
def recorded() -> Iterator[list[MethodCall]]:
    """A context that lists the calls of recordable modules, in order."""
    calls: list[MethodCall] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def is_callable_module(node: Any) -> bool:
    """Returns whether a node is a module, not only a container of modules."""
    return isinstance(node, nnx.Module) and not isinstance(node, (nnx.List, nnx.Dict))


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
