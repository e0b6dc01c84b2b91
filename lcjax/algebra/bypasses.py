"""The algebra of bypasses: affine maps that are added to the output of a pair of Dense layers.

A bypass is a mapping with `bias` (d_out,) and perhaps `kernel` (d_in, d_out). Stacked on the kernel
of a Dense it is a Dense that reads one vector more, so that everything written for Dense layers
holds for pairs with a bypass too.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.algebra.fuse import Affine, Between, affine, fuse_dense
from lcjax.algebra.sharding import DenseParams


def stack_dense(bypass: DenseParams, dense: DenseParams) -> DenseParams:
    """Returns the Dense of `[x, h]` that is the sum of a bypass of x and a Dense of h.

    Args:
      bypass: kernel (d_in, d_out), or none; bias (d_out,).
      dense: kernel (d_hidden, d_out), and no bias.
    """
    kernels = [bypass["kernel"]] if "kernel" in bypass else []
    kernel = _concatenate([*kernels, dense["kernel"]], -2)
    return {"kernel": kernel, "bias": bypass["bias"]}


def split_dense(dense: DenseParams, width: int) -> tuple[DenseParams, DenseParams]:
    """Returns the bypass and the Dense that `stack_dense` makes this Dense of.

    Args:
      dense: kernel (width + d_hidden, d_out), perhaps a bias.
      width: of the bypass's input; 0 for one that is a bias alone.
    """
    kernel = dense["kernel"]
    bias = dense["bias"] if "bias" in dense else _zeros(kernel)
    bypass = {"bias": bias} | ({"kernel": _rows(kernel, slice(width))} if width else {})
    return bypass, {"kernel": _rows(kernel, slice(width, None)) if width else kernel}


def follow_dense(bypass: DenseParams, dense: DenseParams) -> DenseParams:
    """Returns the bypass after a Dense that reads its output: `(x A + a) W`.

    Args:
      bypass: kernel (d_in, d_hidden), or none; bias (d_hidden,).
      dense: kernel (d_hidden, d_out), and no bias.
    """
    if "kernel" in bypass:
        return fuse_dense([bypass, dense])
    row = fuse_dense([{"kernel": bypass["bias"][..., None, :]}, dense])["kernel"]
    return {"bias": row[..., 0, :]}


def widen(
    layers: Sequence[DenseParams],
    between: Sequence[Between],
    bypasses: Sequence[DenseParams | None],
    offset: int = 0,
) -> tuple[list[DenseParams], list[Between]]:
    """Returns a linear chain without bypasses that equals one with them.

    The layer before a bypass with a kernel passes its own input on, and the layer after reads it:
    `x W + (x A) B = (x [A, I]) [B; W]`.

    Args:
      layers: n + 1 Dense layers.
      between: the n maps between them.
      bypasses: for each two layers the bypass of the pair, or None.
      offset: leading rows of the first kernel that are not of the pair's input.
    """
    widths = [layer["kernel"].shape[-2] for layer in layers]
    widths[0] -= offset
    layers, between = list(layers), list(between)
    for i, bypass in enumerate(bypasses):
        if bypass is None:
            continue
        if "kernel" in bypass:
            first, n = layers[i], widths[i]
            passed = np.eye(first["kernel"].shape[-2], n, k=0 if i else -offset)
            bias = (
                {"bias": _concatenate([first["bias"], np.zeros(n)], -1)} if "bias" in first else {}
            )
            layers[i] = {"kernel": _concatenate([first["kernel"], passed], -1), **bias}
            between[i] = _extended(between[i], n)
            kernel = _concatenate([layers[i + 1]["kernel"], bypass["kernel"]], -2)
            layers[i + 1] = {"kernel": kernel, "bias": bypass["bias"]}
        else:
            layers[i + 1] = stack_dense(bypass, layers[i + 1])
    return layers, between


def _extended(each: Between, n: int) -> Affine | None:
    """Returns a map that leaves n further units unchanged."""
    if each is None:
        return None
    leaves = jax.tree.leaves(each)
    on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves if hasattr(leaf, "shape"))
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        scale, shift = jax.eval_shape(lambda each: affine(jnp, each), each)
    else:
        scale, shift = affine(np if on_host else jnp, each)
    shift = None if shift is None else _concatenate([shift, np.zeros(n)], -1)
    return Affine(_concatenate([scale, np.ones(n)], -1), shift)


def _concatenate(arrays: Sequence[Any], axis: int) -> Any:
    """Returns arrays side by side, in the dtype and, if abstract, the sharding of the first."""
    first = arrays[0]
    if any(isinstance(array, jax.ShapeDtypeStruct) for array in arrays):
        shape = list(first.shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        return jax.ShapeDtypeStruct(tuple(shape), first.dtype, sharding=first.sharding)
    same = [array if array is first else array.astype(first.dtype) for array in arrays]
    if all(isinstance(array, np.ndarray) for array in same):
        return np.concatenate(same, axis)
    return jnp.concatenate(same, axis)


def _rows(kernel: Any, rows: slice) -> Any:
    if not isinstance(kernel, jax.ShapeDtypeStruct):
        return kernel[..., rows, :]
    shape = (*kernel.shape[:-2], len(range(*rows.indices(kernel.shape[-2]))), kernel.shape[-1])
    return jax.ShapeDtypeStruct(shape, kernel.dtype, sharding=kernel.sharding)


def _zeros(kernel: Any) -> Any:
    shape = (*kernel.shape[:-2], kernel.shape[-1])
    if isinstance(kernel, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, kernel.dtype)
    return (np if isinstance(kernel, np.ndarray) else jnp).zeros(shape, kernel.dtype)
