"""Checkpoints: save, restore and verify them, and collapse them as a stream."""

from lcjax.io.calibration_file import restore_calibration, save_calibration
from lcjax.io.checkpoint import read_metadata, restore, save
from lcjax.io.streaming import collapse_checkpoint

__all__ = [
    "collapse_checkpoint",
    "read_metadata",
    "restore",
    "restore_calibration",
    "save",
    "save_calibration",
]
