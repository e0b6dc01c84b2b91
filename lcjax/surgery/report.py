"""What a collapse did."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from lcjax._table import render

_STATIC = {"static": True}


@dataclass(frozen=True, kw_only=True)
class SegmentFit:
    """How well what took the place of some sites does, measured on data.

    Of least squares it is the run's output that is compared, of the moments fit the activation.

    Attributes:
      sites: paths of the sites that were replaced together.
      fit: "exact", "moments" or "least_squares".
      tokens: how many were fitted on.
      held_tokens: how many were held out.
      error: `sqrt(Σ ‖t − t̂‖² / Σ ‖t‖²)` over the tokens fitted on; accurate to about 1e-3; None
        where nothing was measured.
      held_error: the same over those held out.
      r2: `1 − Σ ‖t − t̂‖² / Σ ‖t − E t‖²` over the tokens fitted on; None where t never varies.
      held_r2: the same over those held out.
      rank: inner width of the two factors that were kept; None where it was not lowered.
      truncation: relative error of lowering it, in the metric of the inputs for least squares,
        else in the Frobenius norm of the matrix.
      notes: what else there is to say: dead units, too few tokens.
    """

    sites: tuple[str, ...]
    fit: str
    tokens: int = 0
    held_tokens: int = 0
    error: float | None = None
    held_error: float | None = None
    r2: float | None = None
    held_r2: float | None = None
    rank: int | None = None
    truncation: float | None = None
    notes: tuple[str, ...] = ()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class CollapseReport:
    """What a collapse did; a pytree whose paths are static, so that it can leave `jax.jit`.

    Attributes:
      gaps: `|1 − α|` that every collapsed site had, by site path; float32, of layers stacked by
        `nn.scan` one each. The only leaves.
      collapsed: paths of the collapsed sites, in forward order.
      factors: those of them whose Dense pair stays two matrices, because one would be larger.
      kept: the sites that stay, each with the reason.
      new: paths inside params of the leaves that surgery made; every other leaf is the input's.
      dropped: paths inside params of the leaves that are no more.
      parameters_before: of the whole params, slopes left out.
      parameters_after: the same of the compact params.
      flops_before: multiply-adds times two for one token through the chains that were touched.
      flops_after: the same once collapsed.
      fits: how well the fits do that took sites' places, and what ranks were lowered.
    """

    gaps: dict[str, Any]
    collapsed: tuple[str, ...] = field(metadata=_STATIC)
    factors: tuple[str, ...] = field(metadata=_STATIC)
    kept: tuple[tuple[str, str], ...] = field(metadata=_STATIC)
    new: tuple[str, ...] = field(metadata=_STATIC)
    dropped: tuple[str, ...] = field(metadata=_STATIC)
    parameters_before: int = field(metadata=_STATIC)
    parameters_after: int = field(metadata=_STATIC)
    flops_before: int = field(metadata=_STATIC)
    flops_after: int = field(metadata=_STATIC)
    fits: tuple[SegmentFit, ...] = field(default=(), metadata=_STATIC)

    def __str__(self) -> str:
        """Returns a table of the sites, the totals, and how well fits do."""
        rows = [(path, _shown(self.gaps[path]), self._became(path)) for path in self.collapsed]
        rows += [(path, "", f"stays: {reason}") for path, reason in self.kept]
        lines = [render(("site", "gap", "became"), rows, left=3)]
        if any(fit.tokens for fit in self.fits):
            headers = ("fit of", "tokens", "error", "R²", "held out", "error", "R²")
            lines.append(render(headers, [_row(fit) for fit in self.fits if fit.tokens]))
        lines += [f"{', '.join(fit.sites)}: {note}" for fit in self.fits for note in _notes(fit)]
        lines.append(
            f"parameters {self.parameters_before:,} → {self.parameters_after:,}, "
            f"FLOPs/token of the chains touched {self.flops_before:,} → {self.flops_after:,}"
        )
        return "\n".join(lines)

    def _became(self, path: str) -> str:
        return "two factors" if path in self.factors else "one matrix"


def _row(fit: SegmentFit) -> list[str]:
    numbers = [fit.error, fit.r2, fit.held_error, fit.held_r2]
    error, r2, held_error, held_r2 = ("–" if n is None else f"{n:.4f}" for n in numbers)
    name = f"{', '.join(fit.sites)} ({fit.fit})"
    return [name, f"{fit.tokens:,}", error, r2, f"{fit.held_tokens:,}", held_error, held_r2]


def _notes(fit: SegmentFit) -> list[str]:
    if fit.rank is None:
        return list(fit.notes)
    return [*fit.notes, f"factors of rank {fit.rank:,}, relative error {fit.truncation:.4f}"]


def _shown(gap: Any) -> str:
    if isinstance(gap, (Tracer, jax.ShapeDtypeStruct)):
        return "?"
    return f"{np.max(gap):.4f}"
