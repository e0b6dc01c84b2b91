"""Ways to compress a whole network to a number of parameters, by name: lcjax's and baselines."""

import dataclasses
from typing import Literal

from benchmarks.baselines import blocks, drop, ours, units, whitened
from benchmarks.baselines.base import Compress


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to compress a network.

    Attributes:
      title: in tables.
      compress: compresses the first model of a task.
      needs: what a network must have: "blocks", residual "branches" around its MLPs, or nothing.
    """

    title: str
    compress: Compress
    needs: Literal["blocks", "branches"] | None = None


OURS = {
    "linear": Way("lcjax: one matrix a site, least squares", ours.collapse_sites),
    "units": Way("lcjax: kept units, the same share", ours.keep_units),
}
BASELINES = {
    "variance": Way("units by variance, mean to bias", units.VARIANCE.compress),
    "wanda": Way("units by Wanda's score, refit", units.WANDA_REFITTED.compress),
    "magnitude": Way("units by magnitude", units.MAGNITUDE.compress),
    "magnitude-refit": Way("units by magnitude, refit", units.MAGNITUDE_REFITTED.compress),
    "whitened": Way("low rank in the metric of the inputs", whitened.compress),
    "mlps-removed": Way("MLPs removed, mean to bias", drop.remove_mlps, "branches"),
    "blocks": Way("blocks cut, one linear map", blocks.compress, "blocks"),
    "width": Way("all MLPs narrower by activation", units.WIDTH.compress),
}
REGISTRY = OURS | BASELINES
