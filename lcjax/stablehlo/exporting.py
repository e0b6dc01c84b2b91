"""Writes models as StableHLO programs that run with JAX alone: no Flax, no model code."""

import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lcjax.io.checkpoint import save
from lcjax.io.containers import assemble
from lcjax.io.leaves import describe, flatten
from lcjax.stablehlo.format import ABOUT, FORMAT, PROGRAM, WEIGHTS, Weights, require_flatbuffers
from lcjax.tree.paths import leaf_path, leaves_by_path
from lcjax.validation.arguments import check_path
from lcjax.validation.functions import check_function, check_inputs

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_NO_MESH = Mesh(np.empty((), object), ())  # the program is for one device, whatever mesh is active
_MAX_EMBEDDED = 2**31 - 2**24  # bytes; jax.export serializes at most 2 GiB


def export(
    apply_fn: Callable[..., Any],
    variables: Any,
    inputs: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    weights: Weights = "embedded",
) -> None:
    """Writes a model as one StableHLO program for batches of any size, all of it or nothing.

    The program computes the form that the variables have, deep or compact. With embedded weights
    JAX alone runs it, on a machine without lcjax and Flax:

      program = jax.export.deserialize(bytearray(open("exported/program.jax", "rb").read()))
      logits = program.call(images)

    External weights are a checkpoint, `exported/weights`, which the program takes as nested dicts
    in its first argument. Large models compile faster so, because XLA folds constants.

    Args:
      apply_fn: `apply_fn(variables, *inputs)` runs the model, such as `model.apply`; it must not
        turn the batch size into a Python number: `x.shape[0]`, not `len(x)`.
      variables: the first argument of apply_fn; any pytree of arrays, of one process.
      inputs: the other arguments of apply_fn; pytrees of arrays or ShapeDtypeStructs whose leading
        axis is the batch, of the same size in all.
      path: the directory to create, with its parents, on a local disk.
      platforms: the platforms that can run the program, of "cpu", "cuda", "rocm" and "tpu"; none
        of them has to be present.
      weights: "embedded" in the program as constants, at most 2 GiB, or "external".

    Raises:
      FileExistsError: path exists; nothing is overwritten.
      ImportError: flatbuffers is missing, which jax.export needs: `pip install 'lcjax[export]'`.
      TypeError: a leaf that is not an array or a number, or is a typed random key.
      ValueError: an unknown platform, an input without a batch axis or with another batch size, an
        apply_fn that cannot run with a symbolic batch size or has an operation that a platform
        lacks, too many weights to embed.

    Example:
      >>> import tempfile, lcjax, jax.numpy as jnp
      >>> path = tempfile.mkdtemp() + "/double"
      >>> lcjax.export(lambda scale, x: scale * x, jnp.float32(2), [jnp.ones((1, 3))], path)
      >>> lcjax.load_exported(path)(jnp.ones((2, 3))).tolist()
      [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    check_function(apply_fn)
    check_inputs(inputs)
    check_path(path)
    target = Path(path).expanduser().absolute()
    if target.exists():
        raise FileExistsError(
            f"{target} already exists; expected a new path. Choose another one, or move the old "
            "one away."
        )
    _check_choices(platforms, weights)
    program, external = _program(apply_fn, variables, _symbolic_batch(inputs), platforms, weights)
    serialized = bytes(program.serialize())
    about = {"format": FORMAT, "lcjax": version("lcjax"), "weights": weights}
    about |= {"crc32": zlib.crc32(serialized)}
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    unfinished.mkdir()
    try:
        (unfinished / PROGRAM).write_bytes(serialized)
        if external is not None:
            save(unfinished / WEIGHTS, external)
        (unfinished / ABOUT).write_text(json.dumps(about))
        try:
            unfinished.rename(target)
        except OSError as error:
            if target.exists():
                raise FileExistsError(
                    f"{target}: another export created it in the meantime; choose another path."
                ) from error
            raise
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _check_choices(platforms: Sequence[str], weights: str) -> None:
    unknown = [platform for platform in platforms if platform not in _PLATFORMS]
    if unknown or not platforms or isinstance(platforms, str):
        raise ValueError(f"platforms: got {platforms!r}, expected some of {', '.join(_PLATFORMS)}.")
    if weights not in ("embedded", "external"):
        raise ValueError(f"weights: got {weights!r}, expected 'embedded' or 'external'.")
    require_flatbuffers()


def _program(
    apply_fn: Callable[..., Any],
    variables: Any,
    specs: tuple[Any, ...],
    platforms: Sequence[str],
    weights: Weights,
) -> tuple[jax.export.Exported, Any]:
    """Returns the program, and the tree of its external weights, or None."""
    if weights == "embedded":
        constants = _embedded_weights(variables)
        return _traced(lambda *xs: apply_fn(constants, *xs), specs, platforms), None
    arrays = {name: jnp.asarray(leaf) for name, leaf in flatten(variables).items()}
    structure = jax.tree.structure(variables)

    def run(leaves: Any, *xs: Any) -> Any:
        by_name = flatten(leaves)
        return apply_fn(jax.tree.unflatten(structure, [by_name[name] for name in arrays]), *xs)

    shapes = {name: jax.ShapeDtypeStruct(one.shape, one.dtype) for name, one in arrays.items()}
    return _traced(run, (assemble(shapes), *specs), platforms), assemble(arrays)


def _symbolic_batch(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Returns the inputs' shapes with one symbol for the batch size."""
    (symbol,) = jax.export.symbolic_shape("batch")
    batches = set()

    def symbolic(keys: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        if not getattr(leaf, "shape", ()):
            raise ValueError(
                f"inputs {leaf_path(keys)}: got {describe(leaf)}, without a batch axis; expected "
                "an array whose leading axis is the batch."
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

    specs = jax.tree_util.tree_map_with_path(symbolic, tuple(inputs))
    if len(batches) != 1:
        found = ", ".join(map(str, sorted(batches))) or "none"
        raise ValueError(f"inputs: got batches of sizes {found}; expected one size for all inputs.")
    return specs


def _embedded_weights(variables: Any) -> Any:
    """Returns the weights on the host, after a check that a program can contain them."""
    variables = jax.tree_util.tree_map_with_path(_array, variables)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if size > _MAX_EMBEDDED:
        raise ValueError(
            f"variables: got {size:,} bytes of weights, expected at most {_MAX_EMBEDDED:,} to "
            "embed; export with weights='external'."
        )
    for path, leaf in leaves_by_path(variables).items():
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            raise ValueError(
                f"{path}: got an array spread over processes; save it with lcjax.save "
                "and export in one process."
            )
    return jax.tree.map(np.asarray, variables)


def _array(keys: Any, leaf: Any) -> Any:
    """Returns a leaf as an array of the dtype that JAX computes with."""
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
            raise TypeError(f"its dtype is {array.dtype}")
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
            f"apply_fn cannot be traced with these inputs and a symbolic batch size: {reason} "
            "Write x.shape[0] for len(x), and do not branch on the batch size."
        ) from error
    except NotImplementedError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"apply_fn does not compile for all of {', '.join(platforms)}: {reason}. Leave that "
            "platform out of platforms=, or do without the operation."
        ) from error
    if program.nr_devices != 1:
        raise ValueError(
            f"apply_fn places its arrays on {program.nr_devices} devices (by shard_map or by a "
            "sharding with a mesh in it); an exported program runs on 1. Export the model without "
            "these."
        )
    return program
