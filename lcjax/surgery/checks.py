"""Replacing a run with nothing wrong going unseen: what may go in, and what must come out."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax.algebra.fuse import Norm
from lcjax.errors import CollapseError
from lcjax.structure.chains import Chain
from lcjax.structure.runs import Run
from lcjax.surgery.replacement import Replace, Replacement


def replaced(replace: Replace, chain: Chain, run: Run, norms: Mapping[int, Norm]) -> Replacement:
    """Returns what takes the place of a run, of which every number is finite.

    Under tracing, and for ShapeDtypeStructs, there are no numbers to look at.

    Args:
      replace: says what takes the place of the run.
      chain: that the run is of.
      run: what is replaced.
      norms: by the index of the Dense that they stand before.

    Raises:
      CollapseError: arrays that are no real or complex floats, or that hold more than a kernel and
        a bias, or are on different devices; a result that is not finite. Names the sites.
    """
    denses = {i: chain.denses[i] for i in run.denses}
    for i, dense in denses.items():
        _check_dense(f"{', '.join(run.sites)}: {chain.dense_name(i)}", dense)
    _check_places(run, jax.tree.leaves(denses))
    with np.errstate(all="ignore"):
        replacement = replace(chain, run, norms)
    for _, dense in replacement.parts:
        if dense is not None and not _finite(dense):
            raise CollapseError(_why_not_finite(chain, run, norms, dense))
    return replacement


def _check_dense(name: str, dense: Mapping[str, Any]) -> None:
    others = sorted(set(dense) - {"kernel", "bias"})
    if others:
        raise CollapseError(
            f"{name}: holds {', '.join(others)} besides its kernel, which fusing would drop; "
            "expected a kernel and perhaps a bias. Multiply scales into the kernel, or merge "
            "adapters, and collapse that."
        )
    for leaf, array in dense.items():
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise CollapseError(
                f"{name}/{leaf}: got dtype {array.dtype}, expected floating point. If it is "
                "quantized, dequantize it, collapse, and quantize the compact kernels again."
            )


def _check_places(run: Run, leaves: Iterable[Any]) -> None:
    """Raises where arrays cannot be multiplied since they are in different places."""
    places: dict[str, None] = {}
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed:
            devices = sorted(leaf.sharding.device_set, key=lambda device: device.id)
            places[f"{', '.join(map(str, devices))} ({leaf.sharding.memory_kind})"] = None
    if len(places) > 1:
        raise CollapseError(
            f"{', '.join(run.sites)}: got kernels in different places: {'; '.join(places)}; "
            "expected one. Move them together with jax.device_put, and collapse that."
        )


def _finite(dense: Mapping[str, Any]) -> bool:
    leaves = list(dense.values())
    if any(isinstance(leaf, (Tracer, jax.ShapeDtypeStruct)) for leaf in leaves):
        return True
    return all(bool(_all_finite(leaf)) for leaf in leaves)


def _all_finite(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return _device_finite(leaf)
    return np.isfinite(leaf.astype(np.complex128 if leaf.dtype.kind == "c" else np.float64)).all()


@jax.jit
def _device_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


def _why_not_finite(
    chain: Chain, run: Run, norms: Mapping[int, Norm], dense: Mapping[str, Any]
) -> str:
    """Returns the message for a replacement that is not finite."""
    sites = ", ".join(run.sites)
    for i in run.denses:
        if not _finite(chain.denses[i]):
            return (
                f"{sites}: {chain.dense_name(i)} holds NaN or infinite numbers, expected finite "
                "ones: training has diverged. Restore an earlier checkpoint."
            )
    for norm in norms.values():
        if not all(_finite({"leaf": leaf}) for leaf in jax.tree.leaves(norm[:2])):
            return (
                f"{sites}: a norm between the Denses holds NaN or infinite numbers, expected "
                "finite ones: training has diverged. Restore an earlier checkpoint."
            )
    dtype = dense["kernel"].dtype
    return (
        f"{sites}: what takes their place leaves the range of {dtype}, whose largest number is "
        f"{float(jnp.finfo(dtype).max):g}. Cast the kernels to a wider dtype, such as float32, and "
        "collapse that."
    )
