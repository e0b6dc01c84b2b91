"""Which modules a call of a model runs, and with what."""

from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
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


_calls: ContextVar[list[MethodCall] | None] = ContextVar("calls", default=None)


class _Recorded(eqx.Module):
    """A module whose calls are recorded."""

    module: Any
    path: Path = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._record("__call__", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "module" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if is_method(self.module, name):
            return lambda *args, **kwargs: self._record(name, args, kwargs)
        return getattr(self.module, name)

    def _record(self, method: str, args: Any, kwargs: Any) -> Any:
        calls = _calls.get()
        if calls is not None:
            module, args_, kwargs_ = _abstract((_without_records(self.module), args, kwargs))
            calls.append(MethodCall(self.path, method, module, args_, kwargs_))
        return getattr(self.module, method)(*args, **kwargs)


def record_calls(
    model: Any, paths: Collection[Path], fn: Callable[..., Any], inputs: Sequence[Any]
) -> list[MethodCall]:
    """Returns the calls of some modules of a model, in order; nothing is computed.

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
    calls: list[MethodCall] = []
    token = _calls.set(calls)
    try:
        eqx.filter_eval_shape(fn, recorded, *inputs)
    finally:
        _calls.reset(token)
    return calls


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
