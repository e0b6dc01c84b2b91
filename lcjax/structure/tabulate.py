"""A table of the modules that run a tree: their params and their outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.core import meta

from lcjax._table import render
from lcjax.structure.sites import params_of
from lcjax.tree.paths import node_at
from lcjax.validation.functions import check_function, check_inputs, explained


def tabulate(apply_fn: Callable[..., Any], variables: Any, inputs: Sequence[Any]) -> str:
    """Returns a table of the modules that run on this tree, in forward order.

    Unlike Flax's `module.tabulate`, which shows what `init` would build, it shows the form that
    the params have, deep or compact. Traced only; nothing is computed.

    Args:
      apply_fn: a Flax apply function; `apply_fn(variables, *inputs)` runs the model.
      variables: params or variables; arrays or ShapeDtypeStructs.
      inputs: the arguments of apply_fn after the variables; arrays or ShapeDtypeStructs.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model, x = lcjax.CollapsibleMLP((16, 3), jax.nn.relu), jnp.ones((1, 4))
      >>> text = lcjax.tabulate(model.apply, model.init(jax.random.key(0), x), [x])
      >>> [line.split()[0] for line in text.splitlines()[2:]]
      ['(root)', 'dense_0', 'act_0', 'dense_1', 'total']
    """
    check_function(apply_fn)
    check_inputs(inputs)
    calls: dict[str, tuple[str, Any]] = {}

    def record(next_fn, args, kwargs, context):
        if context.method_name != "__call__":
            return next_fn(*args, **kwargs)
        path, kind = "/".join(context.module.path), type(context.module).__name__
        calls.setdefault(path, (kind, None))  # before its children, which run inside
        result = next_fn(*args, **kwargs)
        calls[path] = (kind, jax.tree.map(jax.typeof, result))
        return result

    with explained(apply_fn, variables, inputs, "the input"), nn.intercept_methods(record):
        jax.eval_shape(lambda tree, xs: apply_fn(tree, *xs), variables, tuple(inputs))
    params = meta.unbox(params_of(variables))
    rows = []
    for path, (kind, result) in calls.items():
        node = node_at(params, path)
        own = {name: leaf for name, leaf in node.items() if not isinstance(leaf, Mapping)}
        shapes = ", ".join(f"{name} {_shape(leaf)}" for name, leaf in own.items())
        out = ", ".join(_shape(leaf) for leaf in jax.tree.leaves(result))
        rows.append((path or "(root)", kind, out, shapes, f"{_count(node):,}"))
    rows.append(("total", "", "", "", f"{_count(params):,}"))
    return render(("path", "module", "returns", "holds", "parameters"), rows, left=4)


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _shape(leaf: Any) -> str:
    return f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"
