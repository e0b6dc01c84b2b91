"""Fits of each layer, measured layer by layer from disk on the deep model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from lcjax.algebra.moments import Moments, merge, submoments
from lcjax.algebra.unit_selection import NestedOrder
from lcjax.calibration.fits import Fit, Units
from lcjax.calibration.statistics import SplitMoments
from lcjax.folder.families import Family
from lcjax.folder.fitting.followed import Followed
from lcjax.folder.fitting.forms import form_of
from lcjax.folder.fitting.passes import LayerPasses, Read
from lcjax.folder.fitting.solve import (
    MLP,
    bytes_needed,
    narrowed,
    pool_size,
    segment_of,
    strongest,
)
from lcjax.folder.fitting.streams import Streams
from lcjax.planning.candidates import Candidates, fits_for_width
from lcjax.planning.measuring.padded import padded
from lcjax.planning.plan_file import fit_to_json
from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.surgery.checks import solve_checked

_merge = jax.jit(lambda a, b: (merge(a[0], b[0]), merge(a[1], b[1])), donate_argnums=0)
_merge_units = jax.jit(merge, donate_argnums=0)


class Tried(NamedTuple):
    """A fit of one layer, all others deep.

    Attributes:
      fit: that was tried.
      error: squared error of the MLP's output on texts held out, or on all where none is, relative
        to the squared norm of the layer's output.
      replacement: of the MLP.
    """

    fit: Fit
    error: float
    replacement: Replacement


@dataclass
class Measuring:
    """Measures fits of each layer alone, on the deep model's hidden states.

    Attributes:
      family: of the model.
      streams: files of the deep hidden states.
      followed: models with one fit each.
      passes: compiled.
      buffer: bytes that moments and a solver may take.
      multiple_of: of which numbers of units are multiples.
    """

    family: Family
    streams: Streams
    followed: Followed
    passes: LayerPasses
    buffer: int
    multiple_of: int

    def run(self, layer: int, names: Sequence[str]) -> dict[str, Any]:
        """Writes the layer's outputs; returns the error that each fit has in it, as JSON.

        Of the fits of one form that with about half of the units is followed to the model's end.

        Args:
          layer: its index.
          names: of the models that are followed with a fit of an earlier layer.
        """
        family, params = self.family, self.family.leaves.tree(f"block_{layer}")
        fits, pool = self._fits()
        chosen = None
        if pool < family.hidden:
            strengths, _ = self._pass(layer, params, units=True, read=None)
            last = np.asarray(params["mlp"][family.last]["kernel"])
            chosen = strongest(jax.device_get(strengths), last, pool)
        moments, energy = self._pass(layer, params, units=False, read="both", keep=chosen)
        self.streams.finish(("plan",), layer)
        segment, mlp = self._segment(layer, params), params["mlp"]
        tried = list(self._solved(segment, fits, moments, energy, chosen))
        forms = [_name(layer, each.fit, family.hidden) for each in tried]
        half = _nearest_half(tried, forms, family.hidden)
        new = {name: self._whole(segment, mlp, each.replacement) for name, each in half.items()}
        return {
            "tried": [
                {
                    "fit": fit_to_json(each.fit),
                    "error": each.error,
                    "name": name,
                    "followed": half[name] is each,
                }
                for name, each in zip(forms, tried, strict=True)
            ],
            "names": self.followed.run(layer, params, names, new),
        }

    def _fits(self) -> tuple[Sequence[Fit], int]:
        """Returns the fits to try, and among how many hidden units they choose."""
        family = self.family
        candidates = Candidates(multiple_of=self.multiple_of)
        fits = list(fits_for_width(candidates, family.hidden))
        while fits:
            counts = [fit.count for fit in fits if isinstance(fit, Units)]
            pool = pool_size(family, Units(max(counts))) if counts else 1
            need = bytes_needed(family.width + pool, family.width)
            if need <= self.buffer:
                return fits, pool
            if not counts:
                break
            fits = [f for f in fits if not isinstance(f, Units) or f.count < max(counts)]
        raise ValueError(
            f"--buffer: got {self.buffer:,} bytes, expected at least "
            f"{bytes_needed(family.width + self.multiple_of, family.width):,} to measure fits of "
            "this model. Give a larger buffer."
        )

    def _pass(
        self, layer: int, params: Any, *, units: bool, read: Read | None, keep: Any = None
    ) -> tuple[Any, float]:
        """Returns moments over the deep model's batches, and the mean squared norm of its outputs.

        Args:
          layer: its index.
          params: of the layer.
          units: whether to take moments of each hidden unit.
          read: of which values to take moments with the MLP's output; None for none.
          keep: indices of the hidden units that are read; None for all.
        """
        streams = self.streams
        inputs, outputs = streams.states("plan", layer), streams.states("plan", layer + 1)
        total, size, tokens, block = None, 0.0, 0, self.family.block(layer)
        for i, batch in enumerate(streams.batches):
            args = self.family.arguments(layer, batch.real)
            found = self.passes.deep(
                block, params, inputs.read(i), args, batch.counts, keep, units=units, read=read
            )
            outputs.write(i, found.states)
            real = np.asarray(found.states, np.float64)[batch.real]
            size, tokens = size + float((real**2).sum()), tokens + len(real)
            new, add = (found.units, _merge_units) if units else (found.moments, _merge)
            total = new if total is None else add(total, new)
        return total, size / max(tokens, 1)

    def _solved(
        self,
        segment: Segment,
        fits: Sequence[Fit],
        moments: tuple[Moments, Moments],
        energy: float,
        chosen: np.ndarray | None,
    ) -> Iterator[Tried]:
        both = [replace(each, units=chosen) for each in jax.device_get(moments)]
        inputs = [submoments(replace(each, units=None), np.arange(segment.d_in)) for each in both]
        counts = [fit.count for fit in fits if isinstance(fit, Units)]
        order = NestedOrder(max(counts, default=0))
        judged = both[1] if both[1].count else both[0]  # few texts: none may be held out
        norm = float(judged.tt) / float(judged.count) + float((judged.mean_t**2).sum())
        for fit in fits:
            groups = both if isinstance(fit, Units) else inputs
            statistics = SplitMoments(*({segment.key: each} for each in groups))
            options = {"order": order} if isinstance(fit, Units) else {}
            replacement = solve_checked(fit, segment, statistics, **options)
            (found,) = replacement.fits
            error = found.held_out_error if both[1].count else found.error
            if error is not None:
                yield Tried(fit, error**2 * norm / energy, replacement)

    def _segment(self, layer: int, params: Any) -> Segment:
        return segment_of(self.family, layer, jax.device_get(params["mlp"]), inputs=True)

    def _whole(self, segment: Segment, mlp: MLP, replacement: Replacement) -> MLP:
        """Returns an MLP that computes what a replacement does, in the form of all: every unit."""
        whole = padded(segment, replacement)
        new, units = whole.layers[1].params or {}, np.arange(self.family.hidden)
        return narrowed(self.family, mlp, units, np.asarray(new["kernel"]), whole.bypass or {})


def _name(layer: int, fit: Fit, hidden: int) -> str:
    """Returns the name of the model that has a fit's form in a layer."""
    form = form_of(fit, hidden)
    return f"{layer}_{form.kind}{'_linear' if form.linear else ''}"


def _nearest_half(tried: Sequence[Tried], names: Sequence[str], hidden: int) -> dict[str, Tried]:
    """Returns, of the fits of each name, the one that keeps most nearly half of the units."""
    found: dict[str, Tried] = {}

    def distance(each: Tried) -> int:
        return abs(2 * form_of(each.fit, hidden).width - hidden)

    for name, each in zip(names, tried, strict=True):
        if name not in found or distance(each) < distance(found[name]):
            found[name] = each
    return found
