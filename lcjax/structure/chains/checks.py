"""Checks of the chains of a params tree: that they are whole and that their kernels compose."""

import math
from typing import Any

import jax
import numpy as np

from lcjax.algebra.fuse import DenseParams
from lcjax.errors import CollapseError
from lcjax.structure.chains.chain import Chain, join
from lcjax.tree.units import of_units

_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


def check_chain(chain: Chain) -> None:
    """Raises CollapseError where a chain is half collapsed or its kernels do not compose."""
    for i, dense in chain.denses.items():
        _check_dense(join(chain.path, chain.dense_name(i)), dense)
    for i, slope in chain.acts.items():
        _check_site(chain, i, slope)
    denses = list(chain.denses)
    for i, j in zip(denses, denses[1:], strict=False):
        first, second = chain.denses[i]["kernel"].shape, chain.denses[j]["kernel"].shape
        if (i in chain.acts or math.ceil(i) == j) and not compose(chain.denses[i], chain.denses[j]):
            raise CollapseError(
                f"{join(chain.path, chain.dense_name(j))}: kernel {tuple(second)} does not compose "
                f"with {chain.dense_name(i)}'s kernel {tuple(first)}: their inner widths differ."
            )
    for i, bypass in chain.bypasses.items():
        _check_bypass(chain, i, bypass)


def compose(first: DenseParams, second: DenseParams) -> bool:
    """Returns whether a Dense can run on the output of another."""
    before, after = first["kernel"].shape, second["kernel"].shape
    return before[:-2] == after[:-2] and before[-1] == after[-2]


def _check_bypass(chain: Chain, i: float, bypass: DenseParams) -> None:
    path = join(chain.path, chain.bypass_name(i))
    if i not in chain.acts:
        raise CollapseError(
            f"{path}: found without {chain.act_name(i)}: the tree is half collapsed. Restore a "
            "tree that lcjax.collapse made."
        )
    d_in, _, d_out = chain.widths(i)
    shapes = {name: tuple(leaf.shape) for name, leaf in bypass.items()}
    expected = {name: {"bias": (d_out,), "kernel": (d_in, d_out)}[name] for name in shapes}
    if shapes != expected or "bias" in chain.denses[chain.after(i)]:
        raise CollapseError(
            f"{path}: got {shapes}, expected {expected}, and no bias in "
            f"{chain.dense_name(chain.after(i))}: the tree is half collapsed. Restore a tree that "
            "lcjax.collapse made."
        )


def _check_dense(path: str, dense: DenseParams) -> None:
    if len(shape := dense["kernel"].shape) < 2:
        raise CollapseError(
            f"{path}: got a kernel of shape {tuple(shape)}, expected two axes or more, those of a "
            "Dense."
        )
    for leaf in ("kernel", "bias"):
        if leaf in dense and not isinstance(dense[leaf], _ARRAYS):
            kind = type(dense[leaf])
            nnx = kind.__module__.startswith("flax.nnx")
            remedy = "If it is quantized, dequantize it before the collapse."
            raise CollapseError(
                f"{path}/{leaf}: got a {kind.__name__}, expected an array of NumPy or JAX. "
                + ("Pass nnx.to_pure_dict(state)." if nnx else remedy)
            )


def _check_site(chain: Chain, i: float, slope: Any) -> None:
    if i not in chain.denses or i >= max(chain.denses):
        missing = f"dense_{i}" if i not in chain.denses else "a later dense_i"
        raise CollapseError(
            f"{chain.site(i)}: expected {missing} with it: the tree is half collapsed. Restore a "
            "tree that lcjax.collapse or init made."
        )
    kernel, shape = tuple(chain.denses[i]["kernel"].shape), tuple(slope.shape)
    if shape != kernel[:-2] and not of_units(shape, kernel):
        raise CollapseError(
            f"{chain.site(i)}: got a slope of shape {shape}, expected {kernel[:-2]}, the leading "
            f"axes of {chain.dense_name(i)}'s kernel {kernel}, or {(*kernel[:-2], kernel[-1])}. "
            "Give one slope for each layer that the kernel stacks, or for each unit of each layer."
        )
