"""Calibration: the statistics of a model's values from which a collapse is fitted."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from lcjax._document import Document, Table
from lcjax.algebra.abstract import is_abstract
from lcjax.algebra.moments import Moments
from lcjax.calibration.candidates import collect_for_fit
from lcjax.calibration.data import CalibrationData, as_data
from lcjax.calibration.fits import LEAST_SQUARES, Fit, check_fit
from lcjax.errors import CollapseError
from lcjax.structure.choice import SiteSelector, select_for_fit
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree
from lcjax.structure.segment import Segment, SegmentId
from lcjax.tree.rules import listed
from lcjax.validation.functions import check_function

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Calibration(Document):
    """What a pass over data says about the segments that a choice of sites makes.

    For least squares the moments of each segment's inputs and outputs, by the key of the segment;
    for the per-unit fit those of every pre-activation and activation, by the site.

    Attributes:
      train: moments of the tokens to fit on.
      held_out: moments of the tokens held out, by which fits are judged.
      fit: that it was made for, and that a collapse takes by default.
      segments: which segments are replaced, each by one linear map.
      weights: a fingerprint of the weights that each segment had.

    Example:
      >>> import jax, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> lcjax.calibrate(model.apply, model.init(jax.random.key(1), x), [x])
      <Calibration of act_0: LeastSquares(), 58 tokens to fit on>
    """

    train: dict[str, Moments]
    held_out: dict[str, Moments]
    fit: Fit = field(metadata=_STATIC)
    segments: tuple[SegmentId, ...] = field(metadata=_STATIC)
    weights: tuple[str | None, ...] = field(metadata=_STATIC)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that are collapsed with it, in forward order."""
        return tuple(site for segment in self.segments for site in segment.sites)

    @property
    def _one_by_one(self) -> tuple[SegmentId, ...]:
        """The segments, those of experts one by one."""
        return tuple(part for segment in self.segments for part in segment.parts)

    def __repr__(self) -> str:
        counts = [moments.count for moments in self.train.values()]
        text = f"<Calibration of {listed(self.sites) or 'no site'}: {self.fit!r}"
        if not counts or any(map(is_abstract, counts)):
            return f"{text}>"
        least, most = (f"{int(each):,}" for each in (min(counts), max(counts)))
        return f"{text}, {least if least == most else f'{least} to {most}'} tokens to fit on>"

    def _parts(self) -> list[Table | str]:
        """Returns a table of the segments with the tokens that count."""
        rows = []
        for segment in self._one_by_one:
            key = segment.sites[0] if self.fit.observed == "unit" else segment.key
            tokens = int(self.train[key].count), int(self.held_out[key].count)
            sizes = (segment.d_in, segment.d_out, *tokens)
            rows.append((", ".join(segment.sites), *(f"{size:,}" for size in sizes)))
        table = Table(("sites of one segment", "d_in", "d_out", "tokens", "held out"), rows)
        return [table, *self.notes]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks before a fit: segments with fewer tokens than inputs."""
        if self.fit.observed == "unit":
            return ()
        counts = {segment: int(self.train[segment.key].count) for segment in self._one_by_one}
        return tuple(
            f"{', '.join(segment.sites)}: {count:,} tokens to fit on for {segment.d_in:,} inputs; "
            "expected more tokens than inputs, several times as many for a fit that generalizes. "
            "Give more batches, or take lcjax.PerUnit()."
            for segment, count in counts.items()
            if count < segment.d_in
        )


def calibrate(
    apply_fn: Callable[..., Any],
    variables: Mapping[str, Any],
    data: CalibrationData | Iterable[Any],
    sites: SiteSelector = None,
    fit: Fit = LEAST_SQUARES,
) -> Calibration:
    """Returns statistics with which `collapse(variables, calibration=...)` fits the chosen sites.

    They are of these weights: once the sites are trained on, calibrate again. A part of what is
    calibrated can be collapsed alone, as sites of different chains.

    Sites next to each other in a chain make one segment, which one linear map replaces.
    `LeastSquares` collects second moments of the segment's inputs x and outputs t, from which
    follows the map with the least `E ‖t − x W − b‖²`; `d_in (d_in + d_out)` numbers a segment.
    `PerUnit` collects means and variances of every unit, from which follow a gain and an offset for
    each. `Units` collects second moments of `[x, h]` and t for each site alone, with h its hidden
    units: any count of units, with a linear map or without, follows from one calibration, and any
    rank from that of `LowRank`. A site's slope may be anything.

    One pass (two for `Units` with candidates), compiled once for every shape of batch, and anew in
    every call: values that apply_fn and mask read from outside (an attribute, a global) are read
    again, except by functions that you compiled yourself with `jax.jit`. Moments are float32
    (float64 where activations are), centred and merged, and do not depend on how the data is split
    into batches. On a mesh they are reduced over it. Values that do not lead to a chosen segment
    are not computed.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; jitted or not.
      variables: params or variables, as apply_fn takes them.
      data: batches, or `CalibrationData` with a mask and held-out rows; of any length.
      sites: paths, globs, `re.Pattern`s, Sites or a Plan; None takes every paired site.
      fit: `LeastSquares(...)`, `PerUnit(...)`, `Units(...)`, `LowRank(...)` or `Remove()`.

    Raises:
      CollapseError: as `lcjax.collapse` for sites; a site within `nn.scan` or `vmap`, or one that
        apply_fn does not run; a mask of another shape, or with negative numbers; values that are
        complex or not finite; no token counts; arrays on different devices.
      ValueError: no batch; an exact fit.
      TypeError: batches that are a single array, or that hold something other than arrays.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp, jax, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3), nn.relu)
      >>> variables = model.init(jax.random.key(0), jnp.ones((64, 4)))
      >>> stats = lcjax.calibrate(model.apply, variables, [jnp.ones((64, 4))])
      >>> compact, report = lcjax.collapse(variables, calibration=stats)

    References:
      Shopkhoev et al. 2025, arXiv 2505.02819, replace transformer blocks by least squares.
    """
    check_function(apply_fn)
    return calibrate_model(ParamsTree(variables, apply_fn, "calibrate"), data, sites, fit)


def calibrate_model(
    model: Collapsible,
    data: CalibrationData | Iterable[Any],
    sites: SiteSelector = None,
    fit: Fit = LEAST_SQUARES,
) -> Calibration:
    """Returns what `calibrate` does, for a model of any front end."""
    data = as_data(data)
    check_fit(fit, needs_data=True)
    fit = fit.reduced()
    chosen = select_for_fit(model.sites, sites, model.collapsed).chosen
    segments = segments_to_fit(model, chosen, fit)
    moments = collect_for_fit(model, segments, data, fit)
    return Calibration(
        train=moments.train,
        held_out=moments.held_out,
        fit=fit,
        segments=tuple(segment.id for segment in segments),
        weights=tuple(segment.weights for segment in segments),
    )


def segments_for(model: Collapsible, chosen: Collection[str], fit: Fit) -> list[Segment]:
    """Returns the segments that a fit replaces, in the order of the sites.

    Neighbouring sites make one segment, but for fits that keep hidden units: then each has a pair
    of layers of its own.
    """
    if fit.observed != "hidden":
        return model.segments(chosen)
    return [segment.pair for site in chosen for segment in model.segments([site])]


def segments_to_fit(
    model: Collapsible, chosen: Collection[str], fit: Fit = LEAST_SQUARES
) -> list[Segment]:
    """Returns what `segments_for` does, of segments that can be fitted to data.

    Raises:
      CollapseError: no segment; stacked layers, or kernels that are not of real floats.
    """
    segments = segments_for(model, chosen, fit)
    if not segments:
        raise CollapseError(
            "no site is chosen that has a Dense on both sides, so there is nothing to fit. Build "
            "such pairs with lcjax.CollapsibleMLP, or choose more sites."
        )
    for segment in segments:
        _check_fittable(segment, fit)
    return segments


def check_calibrated(stats: Calibration, segments: Sequence[Segment]) -> None:
    """Raises CollapseError unless statistics are of these segments, with their present weights.

    Args:
      stats: of a calibration.
      segments: those to replace: all that were calibrated, or some.
    """
    for segment in segments:
        if segment.id not in stats.segments:
            same = any(calibrated.sites == segment.sites for calibrated in stats.segments)
            pairs = {one.sites[0] for one in stats.segments if len(one.widths) == 3}
            if len(segment.layers) != 2 and pairs.issuperset(segment.sites):
                raise CollapseError(
                    f"{segment.label}: got statistics of pairs of Dense layers, but one map takes "
                    f"the place of {len(segment.layers)} layers here. Calibrate for this fit."
                )
            raise CollapseError(
                f"{segment.label}: the Dense layers around them are not those that were "
                "calibrated. Calibrate again with this tree."
                if same
                else f"{segment.label}: chosen, but calibrated were {', '.join(stats.sites)}; "
                "it is valid for the sites of one segment of Dense layers together. Leave "
                "sites out, or calibrate again with these."
            )
        then = stats.weights[stats.segments.index(segment.id)]
        if None not in (segment.weights, then) and segment.weights != then:
            raise CollapseError(
                f"{segment.label}: got statistics of other weights than this tree has, as of "
                "another model, or from before it was trained on: a fit would bring those back. "
                "Calibrate again with this tree."
            )


def _check_fittable(segment: Segment, fit: Fit) -> None:
    kernel = segment.layers[0]["kernel"]
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise CollapseError(
            f"{segment.names[0]}: got a kernel of dtype {kernel.dtype}, but fits are of real "
            "floating point. Dequantize it; or collapse with lcjax.Exact(), which takes complex "
            "kernels too."
        )
    if segment.experts and fit.observed == "hidden":
        raise CollapseError(
            f"{segment.label}: got {fit} for kernels stacked by expert, each of which would keep "
            "other units. Take lcjax.LeastSquares(), lcjax.PerUnit() or lcjax.Exact()."
        )
    if segment.stacked != segment.experts:
        raise CollapseError(
            f"{segment.names[0]}: kernel {tuple(kernel.shape)} is of layers stacked by a scan or "
            "vmap, whose values cannot be separated. Unstack the layers (lcjax.unstack_layers, or "
            "lcjax.nnx.unstack_layers), or collapse with lcjax.Exact()."
        )
