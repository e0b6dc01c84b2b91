"""Moments of segments out of those of hidden units, which have them in them."""

from dataclasses import replace

import numpy as np

from lcjax.algebra.moments import Moments, submoments
from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.fits import LEAST_SQUARES


def without_units(moments: Moments, d_in: int) -> Moments:
    """Returns the moments of x and t, of those of `[x, h]` and t.

    Args:
      moments: of `[x, h]`, (d_in + units,), and t.
      d_in: width of x.
    """
    return replace(submoments(moments, np.arange(d_in)), units=None)


def for_segments(stats: Calibration) -> Calibration:
    """Returns a calibration for fits of whole segments, of one for fits that keep hidden units."""
    if stats.fit.observed != "hidden":
        return stats
    widths = {segment.key: segment.d_in for segment in stats.segments}
    return replace(
        stats,
        fit=LEAST_SQUARES,
        train={key: without_units(one, widths[key]) for key, one in stats.train.items()},
        held_out={key: without_units(one, widths[key]) for key, one in stats.held_out.items()},
    )
