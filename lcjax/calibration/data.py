"""Calibration data: batches, which of their positions count, and which rows are held out."""

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from lcjax._messages import describe
from lcjax.validation.arguments import check_number
from lcjax.validation.batches import as_batch, check_batches

Mask = Callable[..., Any]
Weighting = Literal["equal", "influence"]


@dataclass(frozen=True)
class CalibrationData:
    """Batches to calibrate with, and how they are used.

    Attributes:
      batches: any iterable; a batch is the tuple of the model's inputs (what apply_fn takes after
        the variables), or the one array that it takes. Sequential fits and plans need more than one
        pass: a list, or an object whose `__iter__` starts anew.
      mask: `mask(*batch)` returns which positions count, as padding must not: bool, or numbers of
        which all but 0 count, such as ids of segments; its axes are the leading axes of a layer's
        input, from the first on, each of the same length or 1. None counts all.
      holdout: fraction of the rows (along the first axis of a batch) that is held out, in [0, 1):
        reports judge fits by them.
      progress: whether a pass that takes long shows a bar (where tqdm is installed).
      weighting: how much a token counts in fits: "equal", alike; "influence", by how much an
        error at that token changes the model's output; see below.

    With "influence" a token weighs `w = ‖∂ (v · y) / ∂t‖²`, relative to the sum over the tokens of
    its row: t is the value that is fitted, y the output of the deep model, and v a random direction
    of it at each position. Outputs are taken for logits: what is added to all entries of the last
    axis does not count. So each row counts alike, and in it those tokens that reach the output: the
    first alone in the last block of a classifier that reads the first. Where a row is one token,
    nothing changes. A pass takes a forward and a backward pass of the deep model more. Counts in
    reports are effective numbers of tokens, `(Σ w)² / Σ w²`.

    Raises:
      ValueError: a holdout out of range; an unknown weighting.
      TypeError: batches that are a single array; a mask that is not a function.

    Example:
      >>> import numpy as np, lcjax
      >>> data = lcjax.CalibrationData([np.ones((8, 4))], holdout=0.25)

    References:
      Kim et al. 2025, "GuidedQuant", arXiv 2505.07004, equation 4, weigh the errors of quantized
      layers by gradients of the loss, each token and output channel by its own.
    """

    batches: Iterable[Any]
    _: KW_ONLY
    mask: Mask | None = None
    holdout: float = 0.1
    progress: bool = True
    weighting: Weighting = "equal"

    def __post_init__(self):
        check_batches(self.batches)
        check_number("holdout", self.holdout)
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}; expected a fraction of rows in [0, 1).")
        if self.weighting not in get_args(Weighting):
            raise ValueError(f"weighting is {self.weighting!r}; expected 'equal' or 'influence'.")
        if self.mask is not None and not callable(self.mask):
            raise TypeError(
                f"mask is {describe(self.mask)}; expected a function of a batch, mask(*batch), "
                "that returns which positions count."
            )

    def first_batch(self) -> tuple[Any, ...]:
        """Returns the inputs of the first batch.

        Raises:
          ValueError: no batch.
        """
        for batch in self.batches:
            return as_batch(batch)
        raise ValueError("batches is empty: give at least one batch of the model's inputs.")


def as_data(data: CalibrationData | Iterable[Any]) -> CalibrationData:
    """Returns calibration data; a plain iterable of batches means `CalibrationData(batches)`."""
    return data if isinstance(data, CalibrationData) else CalibrationData(data)
