"""Replacements: the layers that take the place of a segment, and how well they fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lcjax.algebra.fuse import DenseParams
from lcjax.structure.segment import Segment


@dataclass(frozen=True, kw_only=True)
class SegmentFit:
    """How well the replacement of some sites does, measured on data.

    Least squares compares the segment's output, the per-unit fit the activation.

    Attributes:
      sites: paths of the sites that were replaced together.
      fit: name of the fit: "exact", "per_unit", "least_squares", "units", "low_rank" or
        "remove".
      tokens: number of tokens fitted on.
      held_out_tokens: number of tokens held out.
      error: `sqrt(Σ ‖t − t̂‖² / Σ ‖t‖²)` over the tokens fitted on; accurate to about 1e-3; None
        where nothing was measured.
      held_out_error: the same over those held out.
      r2: `1 − Σ ‖t − t̂‖² / Σ ‖t − E t‖²` over the tokens fitted on; None where t never varies.
      held_out_r2: the same over those held out.
      rank: inner width of the two factors; None where the rank was not lowered.
      truncation: relative error of lowering it, in the metric of the inputs for least squares,
        otherwise in the Frobenius norm of the matrix.
      notes: further remarks: dead units, too few tokens.

    Example:
      >>> import jax, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> params = model.init(jax.random.key(1), x)
      >>> _, report = lcjax.collapse_sequential(model.apply, params, [x])
      >>> report.fits[0].sites, report.fits[0].fit, report.fits[0].tokens
      (('act_0',), 'least_squares', 58)
    """

    sites: tuple[str, ...]
    fit: str
    tokens: int = 0
    held_out_tokens: int = 0
    error: float | None = None
    held_out_error: float | None = None
    r2: float | None = None
    held_out_r2: float | None = None
    rank: int | None = None
    truncation: float | None = None
    notes: tuple[str, ...] = ()


class NewLayer(NamedTuple):
    """A Dense layer of a replacement, and the layers of the segment that it takes the place of.

    Attributes:
      params: kernel and perhaps bias; None where the one layer in `replaces` stays unchanged.
      replaces: indices into `Segment.layers`, consecutive and increasing. The layer is stored under
        the name of the last; the others are removed.
      factor: a Dense that runs before it, where the kernel of one layer is two factors; else None.
    """

    params: Mapping[str, Any] | None
    replaces: tuple[int, ...]
    factor: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """What takes the place of a segment.

    A front end writes it without knowing how it was found: it stores the layers, removes the
    segment's other layers, and removes the activations in `collapsed` with the affine maps, norms
    and gates that belong to them. An activation of the segment that is not in `collapsed` stays
    between the layers that take the place of its neighbours.

    With `units` the segment has one site, whose activation stays and runs on fewer units: the front
    end takes these units of the first layer, of the gate, of a slope for each unit, and of maps and
    norms around the activation; `layers` is the first layer unchanged, and a last layer whose
    kernel (len(units), d_out) has no bias. Segments of neighbouring sites may then share a layer:
    they are written in forward order. With `bypass` alone and no layers the pair is removed.

    Attributes:
      layers: in forward order; together they cover the layers of the segment that they replace.
      collapsed: paths of the sites whose activations are removed.
      units: indices of the hidden units that stay, increasing, (k,); None where all do, or where
        the activation is removed.
      bypass: an affine map of the segment's input that is added to its output: bias (d_out,), and
        perhaps kernel (d_in, d_out); None for no such map.
      gates: what takes the place of the gates of the segment, with their indices there; empty where
        all stay or go.
      fits: how well it does; empty where nothing was fitted or truncated.
    """

    layers: tuple[NewLayer, ...]
    collapsed: tuple[str, ...]
    units: np.ndarray | None = None
    bypass: DenseParams | None = None
    gates: tuple[NewLayer, ...] = ()
    fits: tuple[SegmentFit, ...] = ()

    def layers_for(self, segment: Segment) -> list[DenseParams]:
        """Returns the Dense layers that take the place of a segment's, those that stay too."""
        return [
            segment.layers[layer.replaces[-1]] if layer.params is None else layer.params
            for layer in self.layers
        ]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Indices of the joints at which it stays in factors, one less than its layers."""
        return tuple(layer.replaces[-1] for layer in self.layers[:-1])
