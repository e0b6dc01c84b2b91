"""Statistics of a network's values on data."""

from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.fits import Exact, LeastSquares, PerUnit, Remove, Units
from lcjax.calibration.low_rank import LowRank

__all__ = [
    "Calibration",
    "CalibrationData",
    "Exact",
    "LeastSquares",
    "LowRank",
    "PerUnit",
    "Remove",
    "Units",
]
