"""The last kernel of a site of low rank, fitted again to what the factors before it give."""

from dataclasses import replace

from lcjax.calibration.calibrate import segments_to_fit
from lcjax.calibration.candidates import collect_for_fit
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import Fit
from lcjax.calibration.low_rank import LowRank
from lcjax.structure.front_end import Collapsible
from lcjax.structure.replacement import NewLayer, Replacement
from lcjax.structure.segment import Segment
from lcjax.surgery.checks import solve_checked


def refitted(
    model: Collapsible,
    now: Collapsible,
    segment: Segment,
    replacement: Replacement,
    fit: Fit,
    data: CalibrationData,
) -> Replacement:
    """Returns a replacement whose last layer corrects the errors of the factors before it.

    That of `LowRank` takes one more pass over the data: the hidden units that the factors give are
    known only once these are in place. Others are returned as they are.

    Args:
      model: the deep model, from which outputs are taken.
      now: the model with the segment, and the fits of all sites before it.
      segment: that the replacement is of.
      replacement: by the fit, from hidden units of `now`.
      fit: how it was found.
      data: the batches; re-iterable.
    """
    if not isinstance(fit, LowRank) or any(one.factor is None for one in replacement.layers):
        return replacement
    before, after = replacement.layers
    stays = NewLayer(None, after.replaces)
    first = replace(replacement, layers=(before, stays), bypass=None)
    half = now.with_variables(now.rebuild({segment: first}).tree)
    (pair,) = segments_to_fit(half, segment.sites, fit)
    found = collect_for_fit(model, [pair], data, fit, half.variables)
    again = solve_checked(fit, pair, found)
    return replace(replacement, layers=(before, again.layers[1]), bypass=again.bypass)
