"""What lcjax adds to a module: slopes, and the layers that replace others."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from lcjax.nnx.functional import Nested
from lcjax.tree.fused_key import FusedKey

ATTRIBUTE = "lcjax"


class Slope(nnx.Param):
    """The slope α of a site; a vector where `nnx.scan` or `nnx.vmap` stacks layers.

    It is an `nnx.Param`, so that `nnx.Optimizer(model, tx, wrt=nnx.Param)` trains it; the filter
    `lcjax.nnx.Slope` finds slopes alone.

    Args:
      *args: as for `nnx.Param`.
      **kwargs: as for `nnx.Param`.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> sloped = lcjax.nnx.add_slopes(model, jax.ShapeDtypeStruct((1, 4), "float32"))
      >>> [slope.shape for slope in jax.tree.leaves(nnx.state(sloped, lcjax.nnx.Slope))]
      [()]
    """


class Affine(NamedTuple):
    """How the layers of a `Fused` run without a trace: the whole method is one affine map.

    Attributes:
      leaf: which of the leaves of the arguments is the input.
      dtype: of the input; others are traced.
      others: the leaves of the arguments that are not arrays; `...` for arrays.
      layers: for every layer the dtypes of its input and its kernel, the precision, and
        `preferred_element_type`.
      out: dtype of the output.
      shapes: of the arrays for which this was seen.
      attributes: of the module and those in it for which this was seen: paths, names and values.
    """

    leaf: int
    dtype: str
    others: tuple[Any, ...]
    layers: tuple[tuple[str, str, Any, Any], ...]
    out: str
    shapes: tuple[tuple[int, ...], ...]
    attributes: tuple[tuple[tuple[Any, ...], str, Any], ...]

    def is_map_of(self, other: "Affine | None") -> bool:
        """Returns whether two methods are the same map, for whatever shapes and attributes."""
        seen = {"shapes": self.shapes, "attributes": self.attributes}
        return other is not None and other._replace(**seen) == self


class Fused(nnx.Module):
    """The layers that replace sites of a module, as `nnx.Param`s.

    Attributes:
      key: names the sites, their widths, and the Params that were removed.
      kernel, bias: of one Dense; factors are `"0"`, `"1"`, …; where units stay there are `layers`,
        `gates`, `vectors` and `bypass`.
    """

    def __init__(
        self,
        key: str,
        stacked: int,
        params: Mapping[str, Any],
        metadata: Mapping[str, Any],
        axis: int = 0,
    ):
        """Not called by users.

        Args:
          key: of a fused entry.
          stacked: number of leading axes of its arrays, for scans inside the method.
          params: the entry.
          metadata: of the Params, by the path of each in the entry.
          axis: where the Params have the layers axis of a scan outside of the method, which the
            entry has in front.
        """
        self.key, self._stacked, self._axis = key, stacked, axis
        moved = jax.tree.map(lambda leaf: _moved(leaf, 0, axis), dict(params)) if axis else params
        for name, value in moved.items():
            setattr(self, name, _as_params(value, metadata, (name,)))

    def __call__(self, x: jax.Array, how: Sequence[tuple[Any, ...]], out: str) -> jax.Array:
        """Returns the affine map of x, (..., d_in) to (..., d_out).

        Args:
          x: the input.
          how: each layer runs; `Affine.layers`.
          out: dtype of the result.
        """
        for layer, (x_dtype, dtype, precision, preferred) in zip(self._layers(), how, strict=True):
            kernel, x = _array(layer.kernel, dtype), x.astype(x_dtype)
            y = lax.dot_general(
                x,
                kernel,
                (((x.ndim - 1,), (0,)), ((), ())),
                precision=precision,
                preferred_element_type=preferred,
            )
            bias = getattr(layer, "bias", None)
            x = y if bias is None else y + _array(bias, y.dtype)
        return x.astype(out)

    def _layers(self) -> list[Any]:
        if hasattr(self, "kernel"):
            return [self]
        return [getattr(self, name) for name in sorted(self.tree, key=int)]

    @property
    def layers_outside(self) -> tuple[int, ...]:
        """Numbers of layers that scans outside of the method stack; () in their bodies."""
        leaves = jax.tree_util.tree_leaves_with_path(self._params)
        keys, leaf = next((row for row in leaves if row[0][-1].key == "kernel"), leaves[0])
        own = self._stacked + (2 if keys[-1].key == "kernel" else 1)
        if self._axis and leaf.ndim > own:
            return (leaf.shape[self._axis],)
        return tuple(leaf.shape[: leaf.ndim - own])

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of a Param in the model, from that which the method sees."""
        return (*shape[: self._axis], *self.layers_outside, *shape[self._axis :])

    @property
    def tree(self) -> Nested:
        """The entry of `fused` in the tree of a collapsible function."""
        if self._axis and self.layers_outside:
            return jax.tree.map(lambda leaf: _moved(leaf, self._axis, 0), self._params)
        return self._params

    @property
    def _params(self) -> Nested:
        return _named(nnx.to_pure_dict(nnx.state(self)))


class Rewritten(nnx.Module):
    """What a module with slopes or fused sites has in its attribute `lcjax`.

    Attributes:
      slopes: `nnx.Dict` of the slope of each site, by the parts of its path in the module.
      fused: `nnx.Dict` of `Fused`.
      method: the method that runs with them.
    """

    def __init__(
        self,
        method: str,
        slopes: Mapping[str, Any],
        fused: Mapping[str, Fused],
        affine: Affine | None = None,
    ):
        """Not called by users.

        Args:
          method: name of the method.
          slopes: by the path of the site in the module.
          fused: by name.
          affine: how it runs without a trace.
        """
        self.method = method
        self._affine = affine
        self.slopes, self.fused = nnx.Dict(), nnx.Dict(fused)
        for site, value in slopes.items():
            node = self.slopes
            for name in site.split("/"):
                if name not in node:
                    node[name] = nnx.Dict()
                node = node[name]
            node["slope"] = value

    @property
    def tree(self) -> dict[str, Any]:
        """The parts `slopes` and `fused` of the tree of a collapsible function."""
        slopes: dict[str, Any] = {}
        _collect(_named(nnx.to_pure_dict(nnx.state(self.slopes))), (), slopes)
        fused = {entry.key: entry.tree for entry in self.entries}
        return {"slopes": slopes, "fused": fused}

    @property
    def entries(self) -> list[Fused]:
        """What is in `fused`, less the attributes that tools such as qwix set on every module."""
        return [entry for entry in vars(self.fused).values() if isinstance(entry, Fused)]

    @property
    def affine(self) -> Affine | None:
        """How it runs without a trace; None where it is traced."""
        return self._affine

    @property
    def sites(self) -> tuple[str, ...]:
        """The paths in the module of the sites that are fused or have a slope."""
        fused = [FusedKey.parse(entry.key).sites for entry in self.entries]
        return (*self.tree["slopes"], *(site for sites in fused for site in sites))

    @property
    def linear(self) -> Fused:
        """The one entry of a method that is an affine map."""
        (entry,) = self.entries
        return entry

    @property
    def removed(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of the Params that were removed, by encoded path in the module."""
        found = {}
        for entry in self.entries:
            leaves = jax.tree.leaves(entry.tree)
            for path, (shape, dtype) in FusedKey.parse(entry.key).removed.items():
                whole = entry.whole(shape)
                found[path] = jax.ShapeDtypeStruct(whole, jnp.dtype(dtype or leaves[-1].dtype))
        return found


def _moved(leaf: Any, start: int, end: int) -> Any:
    """Returns an array, or its shape, with an axis in another place."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.moveaxis(leaf, start, end)
    sizes = [*leaf.shape]
    sizes.insert(end, sizes.pop(start))
    return jax.ShapeDtypeStruct(tuple(sizes), leaf.dtype)


def _array(param: Any, dtype: Any) -> Any:
    """Returns the array of a Param in a dtype, or the quantized array that qwix has put there."""
    return param.get_value().astype(dtype) if isinstance(param, nnx.Variable) else param.value


def _as_params(value: Any, metadata: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        parts = {n: _as_params(each, metadata, (*path, n)) for n, each in value.items()}
        return nnx.Dict(parts)
    param = nnx.Param(value)
    for name, given in metadata.get("/".join(path), {}).items():
        param.set_metadata(name, given)  # given to `Param`, it would place the array anew
    return param


def _named(tree: Any) -> Any:
    """Returns nested dicts with names in the place of numbers."""
    return {str(k): _named(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _collect(tree: Any, path: tuple[str, ...], found: dict[str, Any]) -> None:
    for name, node in tree.items():
        if isinstance(node, dict):
            _collect(node, (*path, name), found)
        else:
            found["/".join(path)] = {"slope": node}
