"""Calls of a function, traced to programs; once for every shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp

from lcjax.calls import explained
from lcjax.errors import CollapseError
from lcjax.transform.found import Found, find_all
from lcjax.transform.keys import encode, site_name
from lcjax.transform.program import open_program


class _Spec(NamedTuple):
    """What of a call is no array: the structure of its trees, and leaves such as `train=False`.

    Leaves stand with their types, since `1 == True`.
    """

    model: Any
    inputs: Any
    static: tuple[tuple[int, type, Any], ...]


@dataclass(eq=False, repr=False)
class Traced:
    """A call of the function with given shapes.

    Attributes:
      found: what is found in it.
      paths: the encoded paths of the leaves of the model's params.
      out: the structure of what it returns.
      plans: plans made for it, by what they bend and fuse.
    """

    found: Found
    paths: tuple[str, ...]
    out: Any
    plans: dict[Any, Any] = field(default_factory=dict)


class Tracer:
    """Traces a function's calls."""

    def __init__(self, fn: Callable[..., Any]):
        self._fn = fn
        self._jitted = jax.jit(self._call, static_argnums=0)
        self._traced: WeakKeyDictionary[Any, Traced] = WeakKeyDictionary()

    def __call__(
        self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Traced, list[Any], list[Any]]:
        """Returns the traced call, the leaves of the model's params, and those of the inputs.

        Args:
          model: the params, whole; arrays or ShapeDtypeStructs.
          args: the function's other arguments; leaves that are no arrays are not traced.
          kwargs: those given by name.

        Raises:
          CollapseError: a leaf of the params is no array.
          TypeError: a leaf of the inputs is neither an array nor hashable.
        """
        flat, structure = jax.tree_util.tree_flatten_with_path(model)
        for keys, leaf in flat:
            if not _is_array(leaf) and not isinstance(leaf, bool | int | float | complex):
                raise CollapseError(
                    f"{encode(keys)}: got {type(leaf).__name__} in params, wanted an array. Split "
                    "off what is no array: nnx.split, or eqx.partition(model, eqx.is_array)."
                )
        leaves = [leaf if _is_array(leaf) else jnp.asarray(leaf) for _, leaf in flat]
        inputs, inputs_structure = jax.tree.flatten((tuple(args), dict(kwargs)))
        static = tuple(
            (i, type(leaf), leaf) for i, leaf in enumerate(inputs) if not _is_array(leaf)
        )
        arrays = [leaf for leaf in inputs if _is_array(leaf)]
        spec = _Spec(structure, inputs_structure, static)
        _check_hashable(spec)
        try:
            with explained(partial(self._fn, **kwargs), model, args, "the call"):
                traced = self._jitted.trace(spec, leaves, arrays)
        except Exception as error:
            error.add_note(
                "Raised by the function itself, traced by lcjax.collapsible. If it misses params: "
                "are these another model's, or a compact tree without its part `fused`?"
            )
            raise
        closed, out = traced.jaxpr, traced.out_info
        if closed in self._traced:
            return self._traced[closed], leaves, arrays
        keep = len(closed.jaxpr.invars) == len(leaves) + len(arrays)
        if not keep:  # the function closes over values that are being traced
            call = partial(self._call, spec)
            closed, out = jax.make_jaxpr(call, return_shape=True)(leaves, arrays)
        paths = tuple(encode(keys) for keys, _ in flat)
        program = open_program(closed, len(leaves))
        found = find_all(program, paths, [site_name(keys) for keys, _ in flat])
        result = Traced(found, paths, jax.tree.structure(out))
        if keep:
            self._traced[closed] = result
        return result, leaves, arrays

    def _call(self, spec: _Spec, leaves: Sequence[Any], arrays: Sequence[Any]) -> Any:
        static, rest = {i: leaf for i, _, leaf in spec.static}, iter(arrays)
        count = len(static) + len(arrays)
        inputs = [static[i] if i in static else next(rest) for i in range(count)]
        args, kwargs = jax.tree.unflatten(spec.inputs, inputs)
        return self._fn(jax.tree.unflatten(spec.model, list(leaves)), *args, **kwargs)


def _check_hashable(spec: _Spec):
    try:
        hash(spec)
    except TypeError as error:
        kinds = sorted({kind.__name__ for _, kind, _ in spec.static})
        raise TypeError(
            f"inputs hold {', '.join(kinds) or 'no leaf'} besides arrays, and {error}. What is no "
            "array has to be hashable, since a call is traced anew for each: use tuples, or close "
            "over it."
        ) from error


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
