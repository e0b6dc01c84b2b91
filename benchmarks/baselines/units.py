"""Baselines: hidden units chosen by a score; the last kernel cut, corrected in its mean, or refit.

Units of all MLPs of the network are removed, not only of those that the run collapsed: the same
share of each, or by standardised scores over the network, whichever of the two is better on the
validation split before healing.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.baselines import base
from benchmarks.baselines.allocation import Counts, adaptive_counts, uniform_counts
from benchmarks.baselines.pairs import Pair, cut, dense_moments, find_pairs
from benchmarks.baselines.trees import at_path
from lcjax.algebra.moments import Moments
from train.protocols.fitting import calibration_data
from train.tasks.base import Task

RIDGE = 1e-3  # of the mean second moment of the units that stay, as in GRAIL's code

Score = Callable[[Any, Pair, Moments], np.ndarray]
# (moments of units and output, units that stay, kernel, bias) -> kernel and bias of those units.
Correct = Callable[
    [Moments, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]
]  # fmt: skip


def variance_score(params: Any, pair: Pair, moments: Moments) -> np.ndarray:
    """Returns `Var(h_j) ‖W₂[j, :]‖²`, the expected error of a unit's mean in its place, (hidden,).

    References:
      An et al. 2024 (FLAP), arXiv 2312.11983, section 3.2, weighted input feature variance; Berisha
      et al. 2025 (VBP), arXiv 2507.12988, section 3, has the variance without the weights.
    """
    variance = np.diagonal(np.asarray(moments.xx, np.float64)) / float(moments.count)
    return variance * (_last_kernel(params, pair) ** 2).sum(1)


def wanda_score(params: Any, pair: Pair, moments: Moments) -> np.ndarray:
    """Returns `‖h_j‖₂ Σ |W₂[j, :]|`, Wanda's score summed over the weights of a unit, (hidden,).

    References:
      Sun et al. 2024 (Wanda), arXiv 2306.11695, equation 1.
    """
    return activation_score(params, pair, moments) * np.abs(_last_kernel(params, pair)).sum(1)


def activation_score(params: Any, pair: Pair, moments: Moments) -> np.ndarray:
    """Returns `‖h_j‖₂` over tokens, here after the activation, (hidden,).

    References:
      Muralidharan et al. 2024 (Minitron), arXiv 2407.14679, section 2.2, importance of neurons.
    """
    mean = np.asarray(moments.mean_x, np.float64)
    return np.sqrt(np.diagonal(np.asarray(moments.xx, np.float64)) + float(moments.count) * mean**2)


def magnitude_score(params: Any, pair: Pair, moments: Moments) -> np.ndarray:
    """Returns `‖W₁[:, j]‖ ‖W₂[j, :]‖`, times the norm of the gate's column if any, (hidden,).

    References:
      Han, Pool, Tran and Dally 2015, arXiv 1506.02626; Li et al. 2017, arXiv 1608.08710.
    """
    score = np.linalg.norm(_last_kernel(params, pair), axis=1)
    for path in pair.first:
        score = score * np.linalg.norm(np.asarray(at_path(params, path)["kernel"]), axis=0)
    return score


def uncorrected(
    moments: Moments, units: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of the kernel, and the bias unchanged."""
    return kernel[units], bias


def mean_to_bias(
    moments: Moments, units: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of the kernel, and the bias with the mean output of the units removed.

    References:
      An et al. 2024 (FLAP), arXiv 2312.11983, section 3.2, baseline bias compensation; Berisha et
      al. 2025 (VBP), arXiv 2507.12988, section 3, mean-shift compensation.
    """
    removed = np.setdiff1d(np.arange(len(kernel)), units)
    return kernel[units], bias + np.asarray(moments.mean_x, np.float64)[removed] @ kernel[removed]


def refitted(
    moments: Moments, units: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ridge regression of the pair's output on the units that stay.

    `W = (Σ_SS + ρ I)⁻¹ Σ_S: W₂`, `b = b₂ + E h W₂ − E h_S W`, with Σ the covariance of the units
    and ρ a fraction of the mean of its diagonal. GRAIL's code leaves the means in its second
    moments and the bias unchanged; an affine fit leaves no more error on the data.

    References:
      Tang et al. 2026 (GRAIL), arXiv 2602.23795, section 3; Zhang and Yang 2026 (CORP), arXiv
      2602.05243, for the affine fit.
    """
    count = float(moments.count)
    covariance, mean = (np.asarray(part, np.float64) for part in (moments.xx, moments.mean_x))
    covariance = covariance / count
    kept = covariance[np.ix_(units, units)]
    penalty = RIDGE * np.diagonal(kept).mean() * np.eye(len(units))
    fitted = np.linalg.lstsq(kept + penalty, covariance[units] @ kernel, rcond=None)[0]
    return fitted, bias + mean @ kernel - mean[units] @ fitted


@dataclasses.dataclass(frozen=True)
class UnitMethod:
    """A choice of hidden units, and what becomes of the last kernel.

    Attributes:
      score: of the units; the largest stay.
      correct: returns the last kernel and bias for the units that stay.
      sequential: whether each MLP is measured in the model whose MLPs before it are narrow already.
      adaptive: whether counts by standardised scores are tried too.
    """

    score: Score
    correct: Correct
    sequential: bool = False
    adaptive: bool = True

    def narrow(self, params: Any, statistics: Mapping[str, Moments], counts: Counts) -> Any:
        """Returns params in which pairs have fewer units, with a bypass for their biases.

        Args:
          params: of the model.
          statistics: moments of inputs and outputs of the last Dense of these pairs, by its path.
          counts: units that stay, by the site of the pair; other pairs stay whole.
        """
        for pair in (each for each in find_pairs(params) if each.site in counts):
            moments = statistics[pair.last]
            scores = self.score(params, pair, moments)
            units = np.sort(np.argsort(-scores, kind="stable")[: counts[pair.site]])
            kernel, bias = _last_kernel(params, pair), pair.bias(params)
            params = cut(params, pair, units, *self.correct(moments, units, kernel, bias))
        return params

    def compress(self, task: Task, target: base.Target) -> base.Compressed:
        """Returns the model of a task with fewer units, within the parameters of the target."""
        params, score = task.variables["params"], self.score
        pairs, dense = find_pairs(params), self._measure(task, task.variables)
        counts = {"the same share": uniform_counts(params, pairs, target.parameters)}
        if self.adaptive:
            scores = {pair.site: score(params, pair, dense[pair.last]) for pair in pairs}
            by_score = adaptive_counts(params, pairs, target.parameters, scores)
            counts["standardised scores"] = by_score
        found = {how: self._carry_out(task, dense, own) for how, own in counts.items()}
        results = {how: task.score(variables) for how, variables in found.items()}
        best = max(results, key=lambda how: results[how])
        lines = [f"units by {best} of all MLPs"]
        lines += [f"{how}: validation score {result:.4f}" for how, result in results.items()]
        lines += [f"{site}: {left} units" for site, left in counts[best].items()]
        return base.Compressed(found[best], lambda tx: tx, 0, "\n".join(lines))

    def _carry_out(self, task: Task, dense: Mapping[str, Moments], counts: Counts) -> Any:
        if not self.sequential:
            return _with_params(task.variables, self.narrow, dense, counts)
        variables = task.variables
        for pair in find_pairs(variables["params"]):
            moments = self._measure(task, variables, [pair])
            own = {pair.site: counts[pair.site]}
            variables = _with_params(variables, self.narrow, moments, own)
        return variables

    def _measure(
        self, task: Task, variables: Any, pairs: Sequence[Pair] | None = None
    ) -> dict[str, Moments]:
        pairs = find_pairs(variables["params"]) if pairs is None else pairs
        apply, data = task.classifier.logits, calibration_data(task)
        return dense_moments(apply, variables, data, [pair.last for pair in pairs])


def _with_params(variables: Any, change: Callable[..., Any], *arguments: Any) -> Any:
    params = change(variables["params"], *arguments)
    return variables | {"params": params}


def _last_kernel(params: Any, pair: Pair) -> np.ndarray:
    return np.asarray(at_path(params, pair.last)["kernel"], np.float64)


VARIANCE = UnitMethod(variance_score, mean_to_bias)
WANDA_REFITTED = UnitMethod(wanda_score, refitted, sequential=True)
MAGNITUDE = UnitMethod(magnitude_score, uncorrected)
MAGNITUDE_REFITTED = UnitMethod(magnitude_score, refitted, sequential=True)
# Width-pruned, to be healed with the deep model as teacher.
WIDTH = UnitMethod(activation_score, uncorrected, adaptive=False)
