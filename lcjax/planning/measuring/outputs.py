"""Metrics of a model's outputs against those of the deep model: no labels are needed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lcjax._messages import describe
from lcjax.calibration.data import CalibrationData
from lcjax.calibration.masks import Positions
from lcjax.validation.batches import check_batches


@dataclass(frozen=True)
class OutputMetric(ABC):
    """Base of the metrics that compare outputs; the metric is −Σ distance / Σ scale, at most 0.

    Attributes:
      batches: on which outputs are compared, or `CalibrationData`, whose mask says which positions
        count; None takes the rows of the plan's data that are held out.
    """

    name: ClassVar[str]

    batches: CalibrationData | Iterable[Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if self.batches is not None and not isinstance(self.batches, CalibrationData):
            check_batches(self.batches, more_than_once="each site")

    @abstractmethod
    def sums(self, deep: Any, now: Any, positions: Positions) -> tuple[jax.Array, jax.Array]:
        """Returns Σ distance and Σ scale over the positions that count.

        Args:
          deep: output of the deep model.
          now: output of another model.
          positions: which count.
        """


@dataclass(frozen=True)
class KLDivergence(OutputMetric):
    """Minus the mean Kullback-Leibler divergence of the output's softmax from the deep model's.

    In nats: `−E Σ p (log p − log q)` with p of the deep model, over the last axis of the logits.

    Attributes:
      batches: on which outputs are compared, or `CalibrationData`; None takes the rows of the
        plan's data that are held out.

    Example:
      >>> import jax, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> data = lcjax.CalibrationData([x], progress=False)
      >>> of = dict(candidates=[lcjax.LeastSquares()], budget=lcjax.Count(1))
      >>> lcjax.plan_fits(model.apply, variables, data, metric=lcjax.KLDivergence(), **of).metric
      'KL divergence'
    """

    name: ClassVar[str] = "KL divergence"

    def sums(self, deep: Any, now: Any, positions: Positions) -> tuple[jax.Array, jax.Array]:
        """Returns the sum of divergences, and the number of positions."""
        p, q = (jax.nn.log_softmax(_logits(each).astype(jnp.float32)) for each in (deep, now))
        divergence = jnp.sum(jnp.exp(p) * (p - q), axis=-1)
        counts = positions.of(divergence.shape)
        return jnp.sum(jnp.where(counts > 0, divergence, 0)), jnp.sum(counts)


KL_DIVERGENCE = KLDivergence()  # the default of functions that plan


@dataclass(frozen=True)
class RelativeError(OutputMetric):
    """Minus the squared distance of the outputs from the deep model's, relative to their square.

    `−Σ ‖y − ŷ‖² / Σ ‖y‖²` over all arrays of the output.

    Attributes:
      batches: on which outputs are compared, or `CalibrationData`; None takes the rows of the
        plan's data that are held out.

    Example:
      >>> import jax, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = model.init(jax.random.key(1), x)
      >>> data = lcjax.CalibrationData([x], progress=False)
      >>> of = dict(candidates=[lcjax.LeastSquares()], budget=lcjax.Count(1))
      >>> lcjax.plan_fits(model.apply, variables, data, metric=lcjax.RelativeError(), **of).metric
      'relative error'
    """

    name: ClassVar[str] = "relative error"

    def sums(self, deep: Any, now: Any, positions: Positions) -> tuple[jax.Array, jax.Array]:
        """Returns the sums of squares of the difference, and of the deep model's output."""

        def square(values: jax.Array) -> jax.Array:
            counts = positions.of(values.shape[:-1] or values.shape)
            counts = counts.reshape(counts.shape + (1,) * (values.ndim - counts.ndim))
            return jnp.sum(jnp.square(jnp.abs(jnp.where(counts > 0, values, 0))), dtype=jnp.float32)

        pairs = list(zip(jax.tree.leaves(deep), jax.tree.leaves(now), strict=True))
        return (
            sum((square(y - other) for y, other in pairs), jnp.float32(0)),
            sum((square(y) for y, _ in pairs), jnp.float32(0)),
        )


def _logits(output: Any) -> jax.Array:
    if not hasattr(output, "dtype") or not output.ndim:
        raise TypeError(
            f"metric: KLDivergence compares logits, one array whose last axis is the classes; the "
            f"function returned {describe(output)}. Return the logits alone, or pass "
            "metric=lcjax.RelativeError()."
        )
    return output
