"""A method of an NNX module as a function of its params, its other state and the inputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from lcjax.transform.ir.updates import Update
from lcjax.tree.encoding import decode

Path = tuple[Any, ...]
Nested = dict[Any, Any]


@dataclass(frozen=True)
class _Slot:
    """The place of a module among the arguments, by number."""

    index: int


@dataclass(eq=False)
class ModuleFunction:
    """A method of a module as a function, with the modules among its arguments.

    `fn(params, states, *args, **kwargs)` returns what the method returns, and for each module what
    it has changed of its state, by path. The module itself and modules among the arguments, such as
    an `nnx.Rngs`, are given as their states. What has changed are `Update`s, and the values of
    Variables that are new.

    Attributes:
      fn: the function.
      params: the Params of the module, nested by path.
      states: the other state of the module, and all state of each module among the arguments.
      args: the arguments, without modules.
      kwargs: those given by name, without modules.
      created: the Variables that the last call of fn created, by module and path.
    """

    fn: Callable[..., Any]
    params: Nested
    states: tuple[Nested, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    created: dict[tuple[int, Path], nnx.Variable] = field(default_factory=dict)


def module_function(
    module: nnx.Module,
    method: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> ModuleFunction:
    """Returns a method of a module as a function.

    Args:
      module: the module; its Variables may contain ShapeDtypeStructs.
      method: called as `method(module, *args, **kwargs)`.
      args: arguments; modules among them may be changed by the method, too.
      kwargs: those given by name.
    """
    graph, params, state = nnx.split(module, nnx.Param, ...)
    graphs: list[Any] = [graph]
    states = [nnx.to_pure_dict(state)]

    def lifted(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.Pytree):
            return leaf
        split, state = nnx.split(leaf)
        graphs.append(split)
        states.append(nnx.to_pure_dict(state))
        return _Slot(len(graphs) - 1)

    given = jax.tree.map(lifted, (tuple(args), dict(kwargs or {})), is_leaf=_is_module)

    def fn(params: Nested, states: Sequence[Nested], *args: Any, **kwargs: Any) -> Any:
        first = nnx.merge(graphs[0], _dicts(params), states[0])
        others = [nnx.merge(g, s) for g, s in zip(graphs[1:], states[1:], strict=True)]
        modules = [first, *others]
        before = [_values(each) for each in modules]
        args, kwargs = jax.tree.map(
            lambda leaf: modules[leaf.index] if isinstance(leaf, _Slot) else leaf, (args, kwargs)
        )
        out = method(first, *args, **kwargs)
        found.created = {}
        changes = []
        for i, (module, old) in enumerate(zip(modules, before, strict=True)):
            changed = {}
            for path, variable in nnx.to_flat_state(nnx.state(module)):
                value = _value(variable)
                if path not in old:
                    found.created[i, path] = variable
                    changed[path] = value
                elif old[path] is not value:
                    changed[path] = Update(old[path], value)
            changes.append(nested(changed))
        return out, changes

    pure = nnx.to_pure_dict(params)
    found = ModuleFunction(fn, pure, tuple(states), given[0], given[1])
    return found


def apply_changes(
    function: ModuleFunction, modules: Sequence[nnx.Module], changes: Sequence[Nested]
) -> None:
    """Writes what a call of a function has changed into the modules that it was made of.

    Args:
      function: the function, after the call.
      modules: the module, and the modules among its arguments, in order.
      changes: what the function returned.
    """
    for i, (module, changed) in enumerate(zip(modules, changes, strict=True)):
        flat = {path: value for path, value in flat_of(changed).items() if value is not None}
        known = {path: value for path, value in flat.items() if (i, path) not in function.created}
        if known:
            nnx.update(module, nested(known))
        for path, value in flat.items():
            if path not in known:
                variable = function.created[i, path].replace(value)
                put(node_at(module, path[:-1]), path[-1], variable)


def modules_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[nnx.Module]:
    """Returns the modules among arguments, in the order in which a function takes their states."""
    leaves = jax.tree.leaves((tuple(args), dict(kwargs)), is_leaf=_is_module)
    return [leaf for leaf in leaves if _is_module(leaf)]


def nested(flat: Mapping[Path, Any]) -> Nested:
    """Returns nested dicts from values by path."""
    tree: Nested = {}
    for path, value in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def flat_of(tree: Nested, path: Path = ()) -> dict[Path, Any]:
    """Returns the leaves of nested dicts by path."""
    flat: dict[Path, Any] = {}
    for name, node in tree.items():
        here = (*path, name)
        flat |= flat_of(node, here) if isinstance(node, dict) else {here: node}
    return flat


def as_path(name: str) -> Path:
    """Returns an encoded path of nested dicts as the path of a Variable."""
    path = tuple(decode(part) for part in name.split("/"))
    return tuple(part for part in path if part is not None)


def node_at(module: Any, path: Path) -> Any:
    """Returns the node of a module's graph at a path."""
    node = module
    for name in path:
        node = getattr(node, str(name)) if isinstance(node, nnx.Pytree) else node[name]
    return node


def put(node: Any, name: str | int, value: Any) -> None:
    """Sets an attribute of a module or an item of a container."""
    if isinstance(node, nnx.Pytree):
        setattr(node, str(name), value)
    else:
        node[name] = value


def _dicts(tree: Any) -> Any:
    """Returns a tree with dicts for lists, as which layers come back that were all removed."""
    if isinstance(tree, list):
        tree = {i: node for i, node in enumerate(tree) if node is not None}
    return {k: _dicts(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _is_module(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Pytree)


def _values(module: nnx.Module) -> dict[Path, Any]:
    return {path: _value(leaf) for path, leaf in nnx.to_flat_state(nnx.state(module))}


def _value(leaf: Any) -> Any:
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
