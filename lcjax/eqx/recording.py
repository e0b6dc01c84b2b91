"""Which modules a call of a model runs, and with what, and whose fields it reads."""

from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax

from lcjax.eqx.collapsed import is_method
from lcjax.eqx.library import equinox as eqx
from lcjax.eqx.places import Path, is_array, node_at, with_node


@dataclass(frozen=True, eq=False)
class MethodCall:
    """A call of a method of a module.

    Attributes:
      path: the place of the module in the model.
      method: its name.
      module: the module in that call, of ShapeDtypeStructs: inside `lax.scan` one layer.
      args: the arguments, with ShapeDtypeStructs for arrays.
      kwargs: those given by name.
    """

    path: Path
    method: str
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Recording:
    """What a call of a model does with some of its modules.

    Attributes:
      calls: those of their methods, in order.
      read: the places of modules with a field that is read from outside.
    """

    calls: list[MethodCall] = field(default_factory=list)
    read: set[Path] = field(default_factory=set)


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


class _Recorded(eqx.Module):
    """A module of which calls, and reads of fields, are recorded."""

    module: Any
    path: Path = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._record("__call__", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "module" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if is_method(self.module, name):
            return lambda *args, **kwargs: self._record(name, args, kwargs)
        value = getattr(self.module, name)
        recording = _recording.get()
        if recording is not None:
            recording.read.add(self.path)
        return value

    def _record(self, method: str, args: Any, kwargs: Any) -> Any:
        recording = _recording.get()
        if recording is not None:
            module, args_, kwargs_ = _abstract((_without_records(self.module), args, kwargs))
            recording.calls.append(MethodCall(self.path, method, module, args_, kwargs_))
        return getattr(self.module, method)(*args, **kwargs)


def record_calls(
    model: Any, paths: Collection[Path], fn: Callable[..., Any], inputs: Sequence[Any]
) -> Recording:
    """Returns the calls of some modules of a model, and who is read; nothing is computed.

    Args:
      model: the model; arrays or ShapeDtypeStructs.
      paths: the places of the modules.
      fn: called as `fn(model, *inputs)`.
      inputs: arrays or ShapeDtypeStructs, and anything else.
    """
    recorded = model
    for path in sorted(paths, key=len, reverse=True):
        node = _Recorded(node_at(recorded, path), path)
        recorded = with_node(recorded, path, node)
    recording = Recording()
    token = _recording.set(recording)
    try:
        eqx.filter_eval_shape(fn, recorded, *inputs)
    finally:
        _recording.reset(token)
    return recording


def _without_records(module: Any) -> Any:
    is_recorded = lambda node: isinstance(node, _Recorded)  # noqa: E731
    return jax.tree.map(
        lambda node: _without_records(node.module) if is_recorded(node) else node,
        module,
        is_leaf=is_recorded,
    )


def _abstract(tree: Any) -> Any:
    def shape(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array(leaf) else leaf

    return jax.tree.map(shape, tree)
