"""Arrays only, no Flax: fusing, moments, regression, placement on a mesh."""

from lcjax.algebra.fuse import Affine, Norm, fuse_dense
from lcjax.algebra.moments import Moments, measure, merge
from lcjax.algebra.regression import least_squares, per_unit_regression, score

__all__ = [
    "Affine",
    "Moments",
    "Norm",
    "fuse_dense",
    "least_squares",
    "measure",
    "merge",
    "per_unit_regression",
    "score",
]
