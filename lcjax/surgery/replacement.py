"""What takes the place of a run: one Dense, or factors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax.algebra import regression as fits
from lcjax.algebra.fuse import Between, Norm, affine, cheapest_cuts, fuse_dense, parameters
from lcjax.algebra.fuse import DenseParams as Dense
from lcjax.algebra.placement import place_dense
from lcjax.errors import CollapseError
from lcjax.structure.chains import Chain
from lcjax.structure.runs import Run
from lcjax.surgery.report import SegmentFit

Rank = int | Literal["auto"] | None
# Denses in forward order, each with the indices of those it replaces, under whose last it is held;
# None for a Dense that stays as it is.
Parts = Sequence[tuple[tuple[int, ...], Dense | None]]
Replace = Callable[[Chain, Run, Mapping[int, Norm]], "Replacement"]


class Replacement(NamedTuple):
    """What takes the place of a run.

    Attributes:
      parts: the Denses.
      fits: how well they do; empty where nothing was fitted or truncated.
    """

    parts: Parts
    fits: tuple[SegmentFit, ...] = ()


@dataclass(frozen=True)
class Truncation:
    """When a matrix is kept as two factors of lower rank: where they are smaller.

    Attributes:
      rank: at most this one; "auto" for the least within the tolerance; None for as it is.
      tolerance: largest relative error of "auto".
    """

    rank: Rank
    tolerance: float

    def __post_init__(self):
        rank = self.rank
        if rank not in (None, "auto") and not (isinstance(rank, int) and rank >= 1):
            raise ValueError(f"rank is {rank!r}, must be None, 'auto' or a number of at least 1.")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}, must be in [0, 1): a relative error.")

    def kept(self, values: np.ndarray, run: Run, cost: int) -> int | None:
        """Returns the rank to keep, or None where two factors of it would not be smaller.

        Args:
          values: the singular values.
          run: which is replaced.
          cost: weights of what takes its place otherwise.
        """
        if self.rank == "auto":
            within = fits.truncation_errors(values)[1:] <= self.tolerance
            rank = 1 + int(within.argmax())
        else:
            rank = min(self.rank or 0, len(values))
        return rank if 0 < rank * (run.d_in + run.d_out) < cost else None


def exactly(truncation: Truncation) -> Replace:
    """Returns the replacement that takes dropped activations for the identity."""

    def replace(chain: Chain, run: Run, norms: Mapping[int, Norm]) -> Replacement:
        return fused(chain, run, norms, truncation, "exact")

    return replace


def fused(
    chain: Chain, run: Run, between: Mapping[int, Between], truncation: Truncation, fit: str
) -> Replacement:
    """Returns a run multiplied together, with what stands, unit by unit, before some Denses.

    Args:
      chain: that the run is of.
      run: what is replaced.
      between: by the index of the Dense that it stands before.
      truncation: of the product, in the Frobenius metric.
      fit: what the report calls it.
    """
    denses = [chain.denses[i] for i in run.denses]
    inside = [between.get(i) for i in run.denses]
    biased = ["bias" in dense or one is not None for dense, one in zip(denses, inside, strict=True)]
    cuts = cheapest_cuts(widths(denses), biased)
    if truncation.rank is not None:
        need_values(run, denses)
        wide = [{name: np.asarray(a, np.float64) for name, a in dense.items()} for dense in denses]
        whole = fuse_dense(wide, [one and affine(np, one) for one in inside])
        values, rows = fits.svd_in_metric(whole["kernel"])
        rank = truncation.kept(values, run, parameters(widths(denses), cuts))
        if rank is not None:
            factors = fits.low_rank_factors(whole["kernel"], rows[:rank])
            error = float(fits.truncation_errors(values)[rank])
            told = SegmentFit(sites=run.sites, fit=fit, rank=rank, truncation=error)
            return Replacement(two(chain, run, factors, whole.get("bias")), (told,))
    parts = []
    for start, end in pairwise(cuts):
        members = run.denses[start:end]
        stays = len(members) == 1 and inside[start] is None
        parts.append((members, None if stays else fuse_dense(denses[start:end], inside[start:end])))
    return Replacement(parts)


def two(
    chain: Chain,
    run: Run,
    factors: tuple[np.ndarray, np.ndarray],
    bias: np.ndarray | None,
) -> Parts:
    """Returns two factors as the parts of a replacement, parted where that is cheapest."""
    denses = [chain.denses[i] for i in run.denses]
    cuts = cheapest_cuts(widths(denses))
    cut = cuts[1] if len(cuts) > 2 else 1 + run.denses.index(run.acts[0])
    first = place_dense(factors[0], None, denses[0], denses[cut - 1])
    second = place_dense(factors[1], bias, denses[cut], denses[-1])
    return [(run.denses[:cut], first), (run.denses[cut:], second)]


def widths(denses: Sequence[Dense]) -> list[int]:
    """Returns the widths d_0, d_1, ..., d_n that a chain of Denses goes through."""
    kernels = [dense["kernel"] for dense in denses]
    return [kernels[0].shape[-2], *(kernel.shape[-1] for kernel in kernels)]


def need_values(run: Run, denses: Sequence[Any]) -> None:
    """Raises unless a run's arrays have values and are of one layer."""
    leaves = jax.tree.leaves(denses)
    if any(isinstance(leaf, (Tracer, jax.ShapeDtypeStruct)) for leaf in leaves):
        raise CollapseError(
            f"{run.first}: traced or abstract, but fits and ranks need its values: call collapse "
            "outside jit."
        )
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves):
        raise CollapseError(
            f"{run.first}: got complex numbers, but fits and ranks are of real ones: collapse with "
            "fit='exact' and without a rank."
        )
    if denses[0]["kernel"].ndim != 2:
        raise CollapseError(
            f"{run.first}: kernel {tuple(denses[0]['kernel'].shape)} is of stacked layers, which "
            "have no one rank. Unstack the layers, or leave rank out."
        )
