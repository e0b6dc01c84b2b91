"""Checkpoints: saved, verified, restored, collapsed in a stream."""
