"""The fit that keeps an activation and makes the kernels around it of low rank."""

from dataclasses import dataclass, field
from typing import ClassVar

from lcjax.calibration.fits import Fit, check_at_least_0
from lcjax.structure.front_end import Observed


@dataclass(frozen=True, kw_only=True, repr=False)
class LowRank(Fit):
    """Keeps each activation, and makes two factors of this rank of each kernel of its MLP.

    The kernel before an activation, and that of a gate, is cut to the rank at which the layer's
    output changes least on the data: in the metric of its inputs, `E ‖(x − E x)(W − M)‖²`. Where
    the chain ends after the activation, the kernel after it is the regression of the output on the
    hidden units, which its ridge keeps near the deep kernel, cut in the same way. A kernel that two
    factors would not make smaller stays, and so does one to whose output a map of an earlier pair
    is added.

    Moments of all h hidden units are collected, `16 (d_in + h) (d_in + h + d_out)` bytes on the
    device, on a mesh in blocks of rows.

    Attributes:
      rank: largest inner width of the factors, at least 1; positional.
      ridge: as for `Units`, of the kernel after the activation.
      sequential: as for `LeastSquares`.
      tolerance: not used.

    Raises:
      ValueError: a rank that is not a number of at least 1.

    Example:
      >>> import lcjax
      >>> lcjax.LowRank(32)
      LowRank(32)

    References:
      Izenman 1975, "Reduced-rank regression for the multivariate linear model", section 2; Wang et
      al. 2024 (SVD-LLM), arXiv 2403.07378, section 3.1, for kernels of networks.
    """

    name: ClassVar[str] = "low_rank"
    observed: ClassVar[Observed] = "hidden"

    rank: int = field(kw_only=False)  # type: ignore[assignment]
    ridge: float = 1e-3
    sequential: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_at_least_0("ridge", self.ridge)
        if not isinstance(self.rank, int):
            raise ValueError(f"rank is {self.rank!r}; expected a number of at least 1.")
