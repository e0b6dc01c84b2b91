"""The baselines that compress whole networks to a number of parameters, by name."""

import dataclasses
from typing import Literal

from benchmarks.baselines import blocks, drop, units, whitened
from benchmarks.baselines.base import Compress


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A baseline.

    Attributes:
      title: in tables.
      compress: compresses the first model of a task.
      needs: what a network must have: "blocks", residual "branches" around its MLPs, or nothing.
    """

    title: str
    compress: Compress
    needs: Literal["blocks", "branches"] | None = None


REGISTRY = {
    "variance": Baseline("units by variance, mean to bias", units.VARIANCE.compress),
    "wanda": Baseline("units by Wanda's score, refit", units.WANDA_REFITTED.compress),
    "magnitude": Baseline("units by magnitude", units.MAGNITUDE.compress),
    "magnitude-refit": Baseline("units by magnitude, refit", units.MAGNITUDE_REFITTED.compress),
    "whitened": Baseline("low rank in the metric of the inputs", whitened.compress),
    "mlps-removed": Baseline("MLPs removed, mean to bias", drop.remove_mlps, "branches"),
    "blocks": Baseline("blocks cut, one linear map", blocks.compress, "blocks"),
    "width": Baseline("all MLPs narrower by activation", units.WIDTH.compress),
}
