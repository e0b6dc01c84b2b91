"""Writes models as StableHLO programs, which run with JAX alone: no Flax, no model code.

An exported model is a directory. `program.jax` in it is what `jax.export` serializes, so that JAX
needs no lcjax to run it; where the weights are beside the program they are a checkpoint that
`lcjax.save` wrote, in `weights`.
"""

import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lcjax.io.checkpoint import save
from lcjax.io.leaves import describe, flatten, nest
from lcjax.stablehlo.exporting import ABOUT, FORMAT, PROGRAM, WEIGHTS, need_flatbuffers
from lcjax.tree.paths import leaf_path
from lcjax.validation.arguments import check_path
from lcjax.validation.functions import check_function, check_inputs

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_NO_MESH = Mesh(np.empty((), object), ())  # the program is for one device, whatever mesh is active
_MOST_INSIDE = 2**31 - 2**24  # bytes; jax.export serializes at most 2 GiB


def export(
    apply_fn: Callable[..., Any],
    variables: Any,
    inputs: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    weights: Literal["inside", "beside"] = "inside",
) -> None:
    """Writes a model as one StableHLO program for batches of any size, all of it or nothing.

    The form that the variables hold is exported, deep or compact. With the weights inside, JAX
    alone runs the file, on a machine that knows neither lcjax nor Flax:

      program = jax.export.deserialize(bytearray(open("exported/program.jax", "rb").read()))
      logits = program.call(images)

    With the weights beside, they are a checkpoint of their own, `exported/weights`; the program
    takes them first, as nested dicts. Large models compile faster so: XLA looks into constants.

    Args:
      apply_fn: `apply_fn(variables, *inputs)` runs the model, such as `model.apply`; may not make
        the batch size a Python number: `x.shape[0]`, not `len(x)`.
      variables: what apply_fn takes first; any pytree of arrays, of one process.
      inputs: what apply_fn takes after the variables; pytrees of arrays or ShapeDtypeStructs whose
        leading axis is the batch, one size for all.
      path: the directory to make, with its parents, on a local disk.
      platforms: on which the program shall run: "cpu", "cuda", "rocm" or "tpu"; one program
        serves all of them, and none has to be at hand.
      weights: "inside" the program, as constants, at most 2 GiB; or "beside" it.

    Raises:
      FileExistsError: there is something at path: nothing is ever overwritten.
      ImportError: without flatbuffers, which jax.export needs and lcjax's extra `export` brings.
      ValueError: an unknown platform, an input without a batch axis or of another batch, an
        apply_fn that the batch size must not be free in, too many weights to be inside.
    """
    check_function(apply_fn)
    check_inputs(inputs)
    check_path(path)
    target = Path(path).expanduser().absolute()
    if target.exists():
        raise FileExistsError(
            f"{target} exists and nothing is ever overwritten: name another path, or move what is "
            "there."
        )
    _check_choices(platforms, weights)
    specs = _free_batch(inputs)
    if weights == "inside":
        constants = _inside(variables)
        program = _traced(lambda *xs: apply_fn(constants, *xs), specs, platforms)
    else:
        held = {name: jnp.asarray(leaf) for name, leaf in flatten(variables).items()}
        structure = jax.tree.structure(variables)

        def run(leaves: Any, *xs: Any) -> Any:
            flat = flatten(leaves)
            return apply_fn(jax.tree.unflatten(structure, [flat[name] for name in held]), *xs)

        shapes = {name: jax.ShapeDtypeStruct(one.shape, one.dtype) for name, one in held.items()}
        program = _traced(run, (nest(shapes), *specs), platforms)
    serialized = bytes(program.serialize())
    about = {"format": FORMAT, "lcjax": version("lcjax"), "weights": weights}
    about |= {"crc32": zlib.crc32(serialized)}
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    making.mkdir()
    try:
        (making / PROGRAM).write_bytes(serialized)
        if weights == "beside":
            save(making / WEIGHTS, nest(held))
        (making / ABOUT).write_text(json.dumps(about))
        try:
            making.rename(target)
        except OSError as error:
            if target.exists():
                raise FileExistsError(f"{target}: another export wrote it meanwhile.") from error
            raise
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _check_choices(platforms: Sequence[str], weights: str) -> None:
    unknown = [platform for platform in platforms if platform not in _PLATFORMS]
    if unknown or not platforms or isinstance(platforms, str):
        raise ValueError(f"platforms is {platforms!r}; wanted some of {', '.join(_PLATFORMS)}.")
    if weights not in ("inside", "beside"):
        raise ValueError(f"weights is {weights!r}, must be 'inside' or 'beside'.")
    need_flatbuffers()


def _free_batch(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Returns the inputs' shapes with one symbol for the batch size."""
    (symbol,) = jax.export.symbolic_shape("batch")
    batches = set()

    def free(keys: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        if not getattr(leaf, "shape", ()):
            raise ValueError(
                f"inputs {leaf_path(keys)}: got {describe(leaf)}, which has no batch axis; wanted "
                "arrays whose leading axis is the batch."
            )
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(
                f"inputs {leaf_path(keys)}: got {leaf.dtype}, a typed key; expected an array of "
                "numbers. Pass jax.random.key_data(key), and call "
                "jax.random.wrap_key_data in apply_fn."
            )
        batches.add(leaf.shape[0])
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct((symbol, *leaf.shape[1:]), dtype)

    specs = jax.tree_util.tree_map_with_path(free, tuple(inputs))
    if len(batches) != 1:
        found = ", ".join(map(str, sorted(batches))) or "none"
        raise ValueError(f"inputs: got batches of sizes {found}; wanted one size for all inputs.")
    return specs


def _inside(variables: Any) -> Any:
    """Returns the weights on the host, once sure that a program can hold them."""
    variables = jax.tree_util.tree_map_with_path(_array, variables)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if size > _MOST_INSIDE:
        raise ValueError(
            f"variables: {size:,} bytes of weights, and a program holds at most {_MOST_INSIDE:,}: "
            "export with weights='beside'."
        )
    for keys, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            raise ValueError(
                f"{leaf_path(keys)}: spread over processes; save it and export in one process."
            )
    return jax.tree.map(np.asarray, variables)


def _array(keys: Any, leaf: Any) -> Any:
    """Returns a leaf as an array in the dtype that JAX computes with."""
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(
                f"variables {leaf_path(keys)}: got {leaf.dtype}, a typed key; expected an array of "
                "numbers. Leave it out, or store jax.random.key_data(key) instead."
            )
        return leaf
    try:
        array = np.asarray(leaf)
        if array.dtype.kind in "OUSMm":
            raise TypeError(f"it holds {array.dtype}")
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"variables {leaf_path(keys)}: got {type(leaf).__name__}, expected an array or a "
            "number."
        ) from error


def _traced(run: Callable[..., Any], specs: Any, platforms: Sequence[str]) -> jax.export.Exported:
    try:
        with jax.set_mesh(_NO_MESH):
            program = jax.export.export(jax.jit(run), platforms=tuple(platforms))(*specs)
    except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"apply_fn cannot be traced with these inputs and a batch of any size: {reason} "
            "Write x.shape[0] for len(x), and let nothing depend on how large it is."
        ) from error
    if program.nr_devices != 1:
        raise ValueError(
            f"apply_fn spreads its arrays over {program.nr_devices} devices by itself (shard_map, "
            "or a sharding with a mesh in it); an exported program runs on 1. Give the form of the "
            "model without these."
        )
    return program
