"""Methods that compress a whole network to a number of parameters: lcjax's and baselines."""

import dataclasses
from functools import partial

from benchmarks.baselines import blocks, drop, units, whitened
from benchmarks.baselines.base import Compress
from benchmarks.baselines.ours import same_size, same_time


@dataclasses.dataclass(frozen=True)
class Compression:
    """A method that compresses a network.

    Attributes:
      title: in tables.
      compress: compresses the first model of a task.
    """

    title: str
    compress: Compress


OURS = {
    "linear": Compression("lcjax: one matrix a site, least squares", same_size.collapse_sites),
    "units": Compression("lcjax: kept units, the same share", same_size.keep_units),
    "plan": Compression("lcjax: the fit of a plan for each site", same_size.keep_to_plan),
    "plan-influence": Compression(
        "lcjax: a plan, tokens weighted by influence",
        partial(same_size.keep_to_plan, weighting="influence"),
    ),
    "plan-time": Compression("lcjax: a plan in the time of low rank", same_time.keep_to_time),
}
BASELINES = {
    "variance": Compression("units by variance, mean to bias", units.VARIANCE.compress),
    "wanda": Compression("units by Wanda's score, refit", units.WANDA_REFITTED.compress),
    "magnitude": Compression("units by magnitude", units.MAGNITUDE.compress),
    "magnitude-refit": Compression("units by magnitude, refit", units.MAGNITUDE_REFITTED.compress),
    "whitened": Compression("low rank in the metric of the inputs", whitened.compress),
    "mlps-removed": Compression("MLPs removed, mean to bias", drop.remove_mlps),
    "blocks": Compression("blocks cut, one linear map", blocks.compress),
    "width": Compression("all MLPs narrower by activation", units.WIDTH.compress),
}
REGISTRY = OURS | BASELINES
