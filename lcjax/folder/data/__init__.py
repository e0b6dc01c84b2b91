"""The calibration set of a folder: texts, their tokens, and batches of them."""

__all__: list[str] = []
