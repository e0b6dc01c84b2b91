"""Moments of segments, as parts of those of hidden units."""

from dataclasses import replace

from lcjax.algebra.moments import Moments
from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.fits import LEAST_SQUARES


def without_units(moments: Moments, d_in: int) -> Moments:
    """Returns the moments of x and t that are part of those of `[x, h]` and t; shares their memory.

    Args:
      moments: of `[x, h]`, (d_in + units,), and t.
      d_in: width of x.
    """
    return replace(
        moments,
        mean_x=moments.mean_x[:d_in],
        xx=moments.xx[:d_in, :d_in],
        xt=moments.xt[:d_in],
        units=None,
    )


def for_segments(stats: Calibration) -> Calibration:
    """Returns a calibration for fits of whole segments, made of one for fits that keep units."""
    if stats.fit.observed != "hidden":
        return stats
    widths = {segment.key: segment.d_in for segment in stats.segments}
    return replace(
        stats,
        fit=LEAST_SQUARES,
        train={key: without_units(one, widths[key]) for key, one in stats.train.items()},
        held_out={key: without_units(one, widths[key]) for key, one in stats.held_out.items()},
    )
