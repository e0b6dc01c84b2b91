"""Layers that `nnx.vmap` stacked, as single modules, and back."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lcjax._messages import describe
from lcjax.errors import CollapseError

_NAMES = "out_sharding"  # metadata of Variables: a name for each axis


def unstack_layers(module: nnx.Module, *, axis: int = 0) -> list[Any]:
    """Returns the layers that `nnx.vmap` stacked in one module, as single modules.

    A fit needs the values of each layer, which `nnx.scan` does not show. Run the layers in a loop,
    collapse that, and `stack_layers` puts those of the same form together for `nnx.scan` again.

    Args:
      module: all its Variables have an axis that counts the layers. It is not changed.
      axis: which axis that is.

    Raises:
      CollapseError: Variables without that axis, or of different lengths.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> make = nnx.vmap(lambda key: nnx.Linear(2, 3, rngs=nnx.Rngs(key)))
      >>> stacked = make(jax.random.split(jax.random.key(0), 4))
      >>> layers = lcjax.nnx.unstack_layers(stacked)
      >>> len(layers), layers[0].kernel.shape
      (4, (2, 3))
      >>> lcjax.nnx.stack_layers(layers).kernel.shape
      (4, 2, 3)
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"module is {describe(module)}; expected an nnx.Module of stacked layers.")
    graph, state = nnx.split(module)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    counts: dict[int | None, str] = {}
    for keys, leaf in leaves:
        length = leaf.shape[axis] if -leaf.ndim <= axis < leaf.ndim else None
        counts.setdefault(length, f"{jax.tree_util.keystr(keys)} of shape {leaf.shape}")
    if len(counts) != 1 or None in counts:
        found = " and ".join(counts.values()) or "no Variables"
        raise CollapseError(
            f"unstack_layers: got {found}, expected an axis {axis} of one length, the number of "
            "layers, in every Variable. Give the module that nnx.vmap made, and its axis."
        )
    (count,) = counts
    layers = []
    for i in range(count or 0):
        taken = jax.tree.map(lambda leaf, i=i: jnp.take(leaf, i, axis=axis), state)
        layers.append(_renamed(nnx.merge(graph, taken), axis, add=False))
    return layers


def stack_layers(layers: Sequence[Any], *, axis: int = 0) -> Any:
    """Returns one module of layers of the same form, for `nnx.scan`; see `unstack_layers`.

    Args:
      layers: modules of the same classes, attributes and shapes. They are not changed.
      axis: where each Variable gets the axis that counts the layers.

    Raises:
      CollapseError: no layers, or layers of different forms.

    Example:
      >>> import lcjax
      >>> from flax import nnx
      >>> layers = [nnx.Linear(2, 3, rngs=nnx.Rngs(i)) for i in range(4)]
      >>> lcjax.nnx.stack_layers(layers).kernel.shape
      (4, 2, 3)
    """
    if not layers or not all(isinstance(layer, nnx.Module) for layer in layers):
        raise CollapseError(
            f"stack_layers: got {[type(layer).__name__ for layer in layers]}, expected modules."
        )
    (graph, first), *others = (nnx.split(layer) for layer in layers)
    shapes = [jax.typeof(leaf) for leaf in jax.tree.leaves(first)]
    for i, (other, state) in enumerate(others, start=1):
        if other != graph or [jax.typeof(leaf) for leaf in jax.tree.leaves(state)] != shapes:
            raise CollapseError(
                f"stack_layers: layer {i} has another form than layer 0: other classes, attributes "
                "or shapes. Collapse all of them with the same fit and width, such as "
                "lcjax.Units(k), or none."
            )
    states = [first, *(state for _, state in others)]
    stacked = jax.tree.map(lambda *each: jnp.stack(each, axis), *states)
    return _renamed(nnx.merge(graph, stacked), axis, add=True)


def _renamed(module: nnx.Module, axis: int, *, add: bool) -> nnx.Module:
    """Returns a module, changed in place, whose Variables name the axes that they have now."""
    for _, variable in nnx.to_flat_state(nnx.state(module)):
        names = variable.get_metadata(_NAMES, None) if isinstance(variable, nnx.Variable) else None
        if names is None:
            continue
        now, ndim = list(names), variable.get_value().ndim
        place = axis % (ndim if add else ndim + 1)
        if add and len(now) == ndim - 1:
            now.insert(place, None)
        elif not add and len(now) == ndim + 1:
            del now[place]
        variable.set_metadata(_NAMES, tuple(now))
    return module
