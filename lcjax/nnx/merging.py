"""From a module and a compact tree of its params to a compact module."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
from flax import nnx
from jax.tree_util import DictKey

from lcjax._messages import describe, first_few
from lcjax.errors import CollapseError
from lcjax.nnx.abstract import Names, abstract_model, put_values, stored_shape, variables_of
from lcjax.nnx.arguments import check_call, model_and_method
from lcjax.nnx.calls.binding import bound
from lcjax.nnx.calls.owners import find_owners
from lcjax.nnx.delivery import deliver
from lcjax.nnx.functional import Path, flat_of
from lcjax.nnx.undelivered import take_apart
from lcjax.transform.params.tree import FunctionParams, read_params, remove_leaves
from lcjax.tree.encoding import encode, readable
from lcjax.tree.fused_key import FusedKey


def merge(model: Any, tree: Any, /, *inputs: Any, **kwargs: Any) -> Any:
    """Returns the compact module of a deep one and the tree that `lcjax collapse` wrote.

    As `nnx.merge(graphdef, state)`: the model says what is computed, the tree has the values.

    Args:
      model: the deep model, as for `lcjax.nnx.trace`. Of its values only those of state are read
        that the tree lacks, such as counters; with a tree of the whole state the model may be that
        of `nnx.eval_shape`. It is not changed.
      tree: `{"model": ..., "slopes": ..., "fused": ...}`, from `lcjax.restore(path)`.
      *inputs: example inputs; arrays or ShapeDtypeStructs.
      **kwargs: those given by name.

    Raises:
      CollapseError: the tree of another model.
      TypeError: something other than a module; inputs that it does not take.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax, tempfile
      >>> from flax import nnx
      >>> class MLP(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.up, self.down = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.down(nnx.relu(self.up(x)))
      >>> model, x = MLP(nnx.Rngs(0)), jnp.ones((1, 4))
      >>> tree, _ = lcjax.nnx.trace(model, x).call.collapse(fit=lcjax.Exact(max_gap=1))
      >>> lcjax.save(path := tempfile.mkdtemp() + "/compact", tree)
      >>> shapes = nnx.eval_shape(lambda: MLP(nnx.Rngs(0)))
      >>> compact = lcjax.nnx.merge(shapes, lcjax.restore(path), x)
      >>> compact(x).shape, compact.up.kernel
      ((1, 4), None)
    """
    given, method = model_and_method(model)
    check_call(method, given, inputs, kwargs)
    params = read_params(tree)
    deep, _ = take_apart(given)
    places = {names: path for names, (path, _) in variables_of(deep).items()}
    fused = {
        str(key): params.fused[name]
        for name, key in ((name, _placed(key, places)) for name, key in params.keys.items())
    }
    removed = [path for key in fused for path in FusedKey.parse(key).removed]
    gone = {tuple(readable(path).split("/")) for path in removed}
    deep = _filled(
        deep, {tuple(map(str, p)): v for p, v in flat_of(params.model or {}).items()}, gone
    )
    function, call, calls = bound(deep, method, inputs, kwargs)
    left = remove_leaves(function.params, removed)
    call = call.with_params(FunctionParams(left, params.slopes, fused))
    return deliver(deep, find_owners(deep, call, calls))


def _placed(key: FusedKey, places: Mapping[Names, Path]) -> FusedKey:
    """Returns a key with the removed leaves as the model has them, with numbers for strings."""
    removed = {}
    for path, leaf in key.removed.items():
        names = tuple(readable(path).split("/"))
        if names not in places:
            raise CollapseError(
                f"{'/'.join(names)}: was removed in the tree, and the model has no such Param. "
                "Give the deep model from which the tree was made."
            )
        removed[encode([DictKey(name) for name in places[names]])] = leaf
    return replace(key, removed=removed)


def _filled(deep: nnx.Module, values: Mapping[Names, Any], gone: set[Names]) -> nnx.Module:
    """Returns a module with values in its Variables; those that were removed have none.

    Raises:
      CollapseError: values that the module has no place for, or of another shape; Variables without
        a value.
    """
    shapes = abstract_model(deep).args[0]
    own, known = variables_of(shapes), variables_of(deep)
    if unknown := values.keys() - own.keys():
        raise CollapseError(
            f"tree: got {first_few(map('/'.join, unknown))}, which the model does not have. Give "
            "the deep model from which the tree was made."
        )
    for names, value in values.items():
        expected = stored_shape(own[names][1].get_value())
        if value.shape != expected.shape or value.dtype != expected.dtype:
            raise CollapseError(
                f"{'/'.join(names)}: got {describe(value)} and dtype {value.dtype}, the model has "
                f"{expected.shape} and {expected.dtype}. Give the deep model that was saved."
            )
    put_values(shapes, values)
    for names, (_, variable) in own.items():
        if names in values or names in gone:
            continue
        value = known[names][1].get_value()
        if isinstance(value, jax.ShapeDtypeStruct):
            raise CollapseError(
                f"{'/'.join(names)}: has no value in the tree, nor in the model. Give a model with "
                "values, not one of nnx.eval_shape."
            )
        variable.set_value(value)
    return shapes
