"""A fit for each layer: measured layer by layer from disk on the deep model, chosen for all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from lcjax.algebra.moments import Moments, merge, submoments
from lcjax.algebra.unit_selection import NestedOrder
from lcjax.calibration.fits import Fit, Units
from lcjax.calibration.statistics import SplitMoments
from lcjax.folder.families import Family
from lcjax.folder.fitting.forms import Form, form_of
from lcjax.folder.fitting.passes import LayerPasses, Read
from lcjax.folder.fitting.plan import Fits, mlp_parameters
from lcjax.folder.fitting.solve import (
    bytes_needed,
    pool_size,
    segment_of,
    strongest,
)
from lcjax.folder.fitting.streams import Streams
from lcjax.planning.budgets import Budget, Usage
from lcjax.planning.candidates import Candidates, fits_for_width
from lcjax.planning.choosing.options import KEEP, Option, SiteOptions
from lcjax.planning.plan_file import fit_from_json, fit_to_json
from lcjax.planning.table import FitTable
from lcjax.surgery.checks import solve_checked

_merge = jax.jit(lambda a, b: (merge(a[0], b[0]), merge(a[1], b[1])), donate_argnums=0)
_merge_units = jax.jit(merge, donate_argnums=0)


class Tried(NamedTuple):
    """A fit of one layer, all others deep.

    Attributes:
      fit: that was tried.
      error: squared error of the MLP's output on texts held out, or on all where none is, relative
        to the squared norm of the layer's output.
      r2: of the MLP's output on texts held out.
    """

    fit: Fit
    error: float
    r2: float | None


@dataclass
class Measuring:
    """Measures fits of each layer alone, on the deep model's hidden states.

    Attributes:
      family: of the model.
      streams: files of the deep hidden states.
      passes: compiled.
      buffer: bytes that moments and a solver may take.
      multiple_of: of which numbers of units are multiples.
    """

    family: Family
    streams: Streams
    passes: LayerPasses
    buffer: int
    multiple_of: int

    def run(self, layer: int) -> list[Any]:
        """Writes the layer's outputs; returns what each fit costs, as JSON."""
        family, params = self.family, self.family.leaves.tree(f"block_{layer}")
        fits, pool = self._fits()
        chosen = None
        if pool < family.hidden:
            strengths, _ = self._pass(layer, params, units=True, read=None)
            last = np.asarray(params["mlp"][family.last]["kernel"])
            chosen = strongest(jax.device_get(strengths), last, pool)
        moments, energy = self._pass(layer, params, units=False, read="both", keep=chosen)
        self.streams.finish(("plan",), layer)
        return [
            {"fit": fit_to_json(each.fit), "error": each.error, "r2": each.r2}
            for each in self._solved(layer, params["mlp"], fits, moments, energy, chosen)
        ]

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
        layer: int,
        params: Any,
        fits: Sequence[Fit],
        moments: tuple[Moments, Moments],
        energy: float,
        chosen: np.ndarray | None,
    ) -> Iterator[Tried]:
        mlp = jax.device_get(params)
        segment = segment_of(self.family, layer, mlp, inputs=True)
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
            (found,) = solve_checked(fit, segment, statistics, **options).fits
            error = found.held_out_error if both[1].count else found.error
            if error is not None:
                yield Tried(fit, error**2 * norm / energy, found.held_out_r2)


def choose(
    family: Family, measured: Sequence[Sequence[Mapping[str, Any]]], budget: Budget
) -> tuple[Fits, float]:
    """Returns a fit for every layer within a budget, and the sum of their errors.

    Args:
      family: of the model.
      measured: what `Measuring.run` returned, for each layer.
      budget: of parameters.

    Raises:
      ValueError: no choice meets it; says the nearest that is possible.
    """
    deep = mlp_parameters(family, Form("deep", family.hidden), bias=False)
    widths = (family.width, family.hidden, family.width)
    sites = []
    for layer, tried in enumerate(measured):
        options = [KEEP]
        for each in tried:
            fit = fit_from_json(each["fit"])
            own = mlp_parameters(family, form_of(fit, family.hidden), bias=True)
            change = Usage(each["error"], own - deep, 2 * (own - deep), -1, 0, 0.0)
            options.append(Option(fit, change, each["r2"]))
        sites.append(SiteOptions(family.site(layer), widths, tuple(options)))
    whole = family.leaves.folder.parameters
    table = FitTable(Usage(0.0, whole, 0, family.depth), tuple(sites))
    choice = table.choose([budget])
    fits = table.fits(choice)
    return [fits.get(site.site) for site in sites], table.usage(choice).drop
