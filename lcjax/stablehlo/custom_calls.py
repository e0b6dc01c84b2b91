"""Custom calls that an exported program may contain: kernels of linear algebra.

A StableHLO program is data except for its custom calls: these name functions of the process that
runs it, and some take addresses, so that a forged one can crash the process or worse.
"""

from collections.abc import Collection, Iterator
from typing import Any

import jax.export
from jax.extend.mlir import deserialize_portable_artifact, ir

_LAPACK = "potrf geqrf gesdd getrf gehrd gees geev trsm gtsv".split()
_OTHER_LAPACK = "lapack_sorgqr_ffi lapack_dorgqr_ffi lapack_cungqr_ffi lapack_zungqr_ffi".split()
_OTHER_LAPACK += "lapack_ssyevd_ffi lapack_dsyevd_ffi lapack_cheevd_ffi lapack_zheevd_ffi".split()
_OTHER_LAPACK += "lapack_ssytrd_ffi lapack_dsytrd_ffi lapack_chetrd_ffi lapack_zhetrd_ffi".split()
_GPU = (
    "cu_lu_pivots_to_permutation hip_lu_pivots_to_permutation cu_threefry2x32_ffi "
    "hip_threefry2x32_ffi cusolver_getrf_ffi hipsolver_getrf_ffi cusolver_geqrf_ffi "
    "cusolver_orgqr_ffi hipsolver_geqrf_ffi hipsolver_orgqr_ffi cusolver_potrf_ffi "
    "hipsolver_potrf_ffi cusolver_syevd_ffi hipsolver_syevd_ffi cusolver_gesvd_ffi "
    "cusolver_gesvdj_ffi hipsolver_gesvd_ffi hipsolver_gesvdj_ffi hipsolver_gesdd_ffi "
    "cusolver_sytrd_ffi hipsolver_sytrd_ffi cusparse_gtsv2_ffi"
).split()
# Calls that XLA replaces by its own code.
_XLA = (
    "Sharding SPMDFullToShardShape SPMDShardToFullShape annotate_device_placement Eigh Qr "
    "ProductOfElementaryHouseholderReflectors LuDecomposition ApproxTopK AllocateBuffer "
    "stablehlo.dynamic_approx_top_k stablehlo.dynamic_reduce_window "
    "stablehlo.dynamic_rng_bit_generator stablehlo.dynamic_top_k shape_assertion"
).split()
KNOWN = frozenset(
    [f"lapack_{dtype}{name}_ffi" for name in _LAPACK for dtype in "sdcz"]
    + [*_OTHER_LAPACK, *_GPU, *_XLA]
)
# Operations that exchange data with the host.
_HOST = frozenset(f"stablehlo.{name}" for name in ("infeed", "outfeed", "send", "recv"))


def unknown_calls(program: jax.export.Exported, trusted: Collection[str] = ()) -> list[str]:
    """Returns the sorted targets of custom calls that are not known linear algebra.

    Does not run or compile the program.

    Args:
      program: the return value of `jax.export.deserialize`.
      trusted: further targets to accept.

    Raises:
      Exception: from MLIR, for bytes that are not a program.
    """
    with ir.Context() as context:
        module = deserialize_portable_artifact(program.mlir_module_serialized, context)
        return sorted(set(_targets(module.operation)) - KNOWN - set(trusted))


def _targets(module: Any) -> Iterator[str]:
    waiting = [module]
    while waiting:
        operation = waiting.pop()
        if operation.name == "stablehlo.custom_call":
            yield ir.StringAttr(operation.attributes["call_target_name"]).value
        elif operation.name in _HOST:
            yield operation.name
        for region in operation.regions:
            for block in region:
                waiting += [inner.operation for inner in block]
