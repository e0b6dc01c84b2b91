"""Budgets: the limit that a plan meets, of a drop, a size, a time, or a number of sites."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from lcjax._messages import describe
from lcjax.validation.arguments import check_number, is_count

Quantity = Literal["drop", "parameters", "flops", "kept", "bytes", "ms"]


class Usage(NamedTuple):
    """What a model costs, in every quantity that a budget can limit.

    Attributes:
      drop: of the metric from the deep model's, in the metric's unit.
      parameters: of the whole model, slopes left out.
      flops: multiply-adds times two for one token through the model's chains of Dense layers.
      kept: number of sites that stay.
      bytes: of all arrays of the tree; None where they are not measured.
      ms: time of one batch in milliseconds; None where it is not measured.
    """

    drop: float
    parameters: int
    flops: int
    kept: int
    bytes: int | None = None
    ms: float | None = None


@dataclass(frozen=True)
class Budget(ABC):
    """Base of the budgets.

    Attributes:
      limit: as the user gives it.
    """

    quantity: ClassVar[Quantity]  # the attribute of Usage that is limited

    limit: Any

    @abstractmethod
    def most(self, deep: Usage) -> float:
        """Returns the largest accepted value of the quantity, given the deep model's."""

    def met(self, usage: Usage, deep: Usage) -> bool:
        """Returns whether a model meets the budget."""
        return getattr(usage, self.quantity) <= self.most(deep)

    def __str__(self) -> str:
        """Returns the budget as the user writes it."""
        shown = f"{self.limit:g}" if self.limit < 1e6 else f"{self.limit:,}"
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True)
class MaxDrop(Budget):
    """The largest drop of the metric from the deep model's, in the metric's unit; at least 0.

    Half a point of an accuracy from 0 to 1 is 0.005; of an accuracy in percent it is 0.5.

    Attributes:
      limit: the drop.

    Example:
      >>> import lcjax
      >>> print(lcjax.MaxDrop(0.005))
      MaxDrop(0.005)
    """

    quantity: ClassVar[Quantity] = "drop"

    limit: float

    def __post_init__(self):
        check_number("MaxDrop", self.limit)
        if not self.limit >= 0:
            raise ValueError(
                f"MaxDrop: got {self.limit}, expected at least 0, in the metric's unit."
            )

    def most(self, deep: Usage) -> float:
        """Returns the limit."""
        return self.limit


@dataclass(frozen=True)
class _SizeBudget(Budget):
    limit: int | float

    def __post_init__(self):
        name = type(self).__name__
        check_number(name, self.limit, like=0.8)
        fraction = isinstance(self.limit, float) and 0 < self.limit < 1
        if not fraction and not is_count(self.limit):
            raise ValueError(
                f"{name}: got {self.limit!r}, expected a whole number of at least 1, or a fraction "
                "of the deep model's in (0, 1)."
            )

    def most(self, deep: Usage) -> float:
        """Returns the number, or the fraction of the deep model's."""
        return self.limit if is_count(self.limit) else self.limit * getattr(deep, self.quantity)


@dataclass(frozen=True)
class Params(_SizeBudget):
    """Parameters to reach: a number (int), or a fraction of the deep model's (float in (0, 1)).

    Slopes are not counted.

    Attributes:
      limit: the number, or the fraction.

    Example:
      >>> import lcjax
      >>> print(lcjax.Params(0.5), lcjax.Params(1_000_000))
      Params(0.5) Params(1,000,000)
    """

    quantity: ClassVar[Quantity] = "parameters"


@dataclass(frozen=True)
class Flops(_SizeBudget):
    """FLOPs to reach: a number (int), or a fraction of the deep model's (float in (0, 1)).

    Multiply-adds times two for one token through the model's chains of Dense layers.

    Attributes:
      limit: the number, or the fraction.

    Example:
      >>> import lcjax
      >>> print(lcjax.Flops(0.5))
      Flops(0.5)
    """

    quantity: ClassVar[Quantity] = "flops"


@dataclass(frozen=True)
class Memory(_SizeBudget):
    """Bytes of the variables to reach: a number (int), or a fraction of the deep model's.

    All arrays of the tree count, in the dtypes that they have.

    Attributes:
      limit: the number, or the fraction.

    Example:
      >>> import lcjax
      >>> print(lcjax.Memory(2**20))
      Memory(1,048,576)
    """

    quantity: ClassVar[Quantity] = "bytes"


@dataclass(frozen=True)
class Latency(Budget):
    """Time of one batch to reach on the device that plans, with the function compiled.

    Savings of fits are taken to add up, of sites that share a layer in proportion to the FLOPs that
    they save together. The chosen model is timed; where it leaves over a tenth of the limit and was
    predicted to be slower, a slower choice is tried.

    Attributes:
      limit: a fraction of the deep model's time, in (0, 1).
      batch: the model's inputs, a tuple of them or one array; None takes the first batch of data.
      ms: milliseconds, in the place of a fraction.

    Example:
      >>> import lcjax
      >>> print(lcjax.Latency(0.7), lcjax.Latency(ms=2.5))
      Latency(0.7) Latency(ms=2.5)
    """

    quantity: ClassVar[Quantity] = "ms"

    limit: float | None = None
    batch: Any = field(default=None, compare=False, repr=False)
    _: KW_ONLY
    ms: float | None = None

    def __post_init__(self):
        if (self.limit is None) == (self.ms is None):
            raise ValueError(
                f"Latency: got limit={self.limit} and ms={self.ms}; expected a fraction of the "
                "deep model's time, Latency(0.7), or milliseconds, Latency(ms=2.5)."
            )
        given = self.ms if self.limit is None else self.limit
        check_number("Latency", given, like=0.7)
        if self.limit is not None and not 0 < self.limit < 1:
            raise ValueError(
                f"Latency: got {self.limit}, expected a fraction of the deep model's time in "
                "(0, 1). Give milliseconds by ms=."
            )
        if self.ms is not None and not self.ms > 0:
            raise ValueError(f"Latency: got ms={self.ms}, expected more than 0.")

    def most(self, deep: Usage) -> float:
        """Returns the largest time, in milliseconds."""
        if self.limit is None:
            return self.ms or 0.0
        return self.limit * (deep.ms or 0.0)

    def __str__(self) -> str:
        """Returns the budget as the user writes it, without the batch."""
        return f"Latency(ms={self.ms:g})" if self.limit is None else f"Latency({self.limit:g})"


@dataclass(frozen=True)
class Count(Budget):
    """The number of sites to replace, at least 1.

    Attributes:
      limit: the number.

    Example:
      >>> import lcjax
      >>> print(lcjax.Count(3))
      Count(3)
    """

    quantity: ClassVar[Quantity] = "kept"

    limit: int

    def __post_init__(self):
        check_number("Count", self.limit, like=3)
        if not is_count(self.limit):
            raise ValueError(
                f"Count: got {self.limit!r}, expected a number of sites of at least 1."
            )

    def most(self, deep: Usage) -> float:
        """Returns how many sites stay."""
        return deep.kept - self.limit


def check_budget(budget: Any) -> None:
    """Raises TypeError unless this is one budget that `lcjax.plan` can meet."""
    if isinstance(budget, Memory | Latency):
        raise TypeError(
            f"budget is {budget}; lcjax.plan takes lcjax.MaxDrop, lcjax.Params, lcjax.Flops and "
            "lcjax.Count. Plan with lcjax.plan_fits, which measures memory and time."
        )
    if not isinstance(budget, Budget):
        raise TypeError(
            f"budget is {describe(budget)}; expected one of lcjax.MaxDrop(0.5), lcjax.Params(0.8), "
            "lcjax.Flops(0.8), lcjax.Count(3). Pass one such object, with your limit in it."
        )


def as_budgets(budget: Any) -> tuple[Budget, ...]:
    """Returns one budget or several as a tuple.

    Raises:
      TypeError: something other than budgets; none.
    """
    budgets = tuple(budget) if isinstance(budget, Sequence) else (budget,)
    wrong = next((describe(each) for each in budgets if not isinstance(each, Budget)), "empty")
    if not budgets or wrong != "empty":
        raise TypeError(
            f"budget is {wrong}; expected one or several of lcjax.Params(0.8), lcjax.Flops(0.8), "
            "lcjax.Memory(0.8), lcjax.Latency(0.8), lcjax.Count(3), lcjax.MaxDrop(0.5)."
        )
    return budgets
