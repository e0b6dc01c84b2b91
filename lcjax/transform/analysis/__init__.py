"""Properties of every value of a traced program."""

from lcjax.transform.analysis.affine_ops import AffineOp
from lcjax.transform.analysis.dense import DenseOp

__all__ = ["AffineOp", "DenseOp"]
