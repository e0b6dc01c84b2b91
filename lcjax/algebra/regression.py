"""Linear fits on moments: float64, in NumPy, on the host."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import numpy as np
import scipy.linalg

from lcjax.algebra.moments import Moments

# Below this part of the mean, a deviation of float32 moments is rounding.
_ROUNDING = 1e-6
# An input with less than this part of the mean contribution to a kernel's output is penalized as if
# it contributed that much; otherwise a few tokens could decide its weights.
_SMALL_SHARE = 0.3
# How much larger the ridge around a prior is where there are as many tokens as inputs.
_SCARCE = 30.0


class LinearMap(NamedTuple):
    """An affine map from x to t, found from moments.

    Attributes:
      kernel: W, (d_in, d_out).
      bias: b, (d_out,).
      root: R with Rᵀ R = Σxx + ρ D, (d_in, d_in): `‖R (W − M)‖` is the cost of M in place of W.
      rank: of Σxx, up to rounding.
    """

    kernel: np.ndarray
    bias: np.ndarray
    root: np.ndarray
    rank: int


class Gains(NamedTuple):
    """The replacement of an activation, unit by unit: `g ⊙ z + c`.

    Attributes:
      gain: g, (d,).
      offset: c, (d,).
      dead: which units have a constant activation, bool (d,).
    """

    gain: np.ndarray
    offset: np.ndarray
    dead: np.ndarray


class Score(NamedTuple):
    """How well a fit does on tokens.

    Attributes:
      error: `sqrt(Σ ‖t − t̂‖² / Σ ‖t‖²)`, 0 for a perfect fit; None without tokens.
      r2: `1 − Σ ‖t − t̂‖² / Σ ‖t − E t‖²`, 1 for a perfect fit; None where t never varies.
    """

    error: float | None
    r2: float | None


def least_squares(
    moments: Moments, ridge: float, *weights: np.ndarray, prior: np.ndarray | None = None
) -> LinearMap:
    """Returns the ridge regression of t on x.

    `W = W₀ + (Σxx + ρ D)⁻¹ (Σxt − Σxx W₀)`, `b = E t − E x W`, with Σ the covariances, ρ the ridge,
    W₀ the prior, and D diagonal with the variances of the inputs: the ridge regression on
    standardised inputs, which does not depend on their units. An input that varies but hardly acts
    on the network, such as a pixel that is lit in few images, would get its weights from a few
    tokens. So D is larger where an input has a small share of the output of `weights`, the kernel
    that x is multiplied by: `D = Var(x) max(1, 0.3 / u)`, `u = Var(x) ‖w‖²` over its mean. That has
    no units either, since a row w has those of 1/x. Groups of inputs that different kernels read
    have a mean each.

    Where x does not vary in some direction, that direction keeps the weight of the prior, without a
    ridge too.

    Args:
      moments: full, not unitwise.
      ridge: ρ, at least 0.
      *weights: (d_in, width); of several, which cover x one after another, each is for its own
        inputs. None at all takes D for the variances alone.
      prior: W₀, (d_in, d_out), which the ridge keeps W near to; None for 0. With one, ρ is taken
        times `1 + 30 d_in / tokens`: the fewer the tokens, the more they must show.

    References:
      Hoerl and Kennard 1970, "Ridge regression: biased estimation for nonorthogonal problems".
    """
    count, mean_x, mean_t, xx, xt = (
        np.asarray(part, np.float64)
        for part in (moments.count, moments.mean_x, moments.mean_t, moments.xx, moments.xt)
    )
    squares = np.maximum(np.diagonal(xx), 0) / count
    varies = ~_constant(squares * count, mean_x, count)
    deviation = np.sqrt(np.where(varies, squares, 0))
    unit = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    correlation = (xx + xx.T) / 2 / count * unit[:, None] * unit
    penalty = around_prior(ridge, moments) if prior is not None else ridge
    penalty = penalty * penalties(deviation, varies, weights)
    if prior is not None:
        xt = xt - (xx + xx.T) @ prior / 2
    right, rounding = unit[:, None] * (xt / count), _rounding(moments.xx)
    solved = _by_cholesky(correlation, penalty, right, rounding)
    if solved is None:
        solved = _by_eigenvectors(correlation, penalty, right, rounding)
    kernel = unit[:, None] * solved.kernel + (0 if prior is None else prior)
    return LinearMap(kernel, mean_t - mean_x @ kernel, solved.root * deviation, solved.rank)


def around_prior(ridge: float, moments: Moments) -> float:
    """Returns the ridge around a prior, which is larger where tokens are scarce."""
    return ridge * (1 + _SCARCE * len(moments.mean_x) / float(moments.count))


class _Solved(NamedTuple):
    """The kernel on standardised inputs, the root R of their metric, and the rank."""

    kernel: np.ndarray
    root: np.ndarray
    rank: int


def _by_cholesky(
    correlation: np.ndarray, penalty: np.ndarray, right: np.ndarray, rounding: float
) -> _Solved | None:
    """Solves where the penalty exceeds the rounding of the moments; else returns None."""
    largest = np.abs(correlation).sum(1).max(initial=0)  # at least the largest eigenvalue
    if not penalty.min(initial=np.inf) > rounding * largest > 0:
        return None
    try:
        factor = scipy.linalg.cholesky(correlation + np.diag(penalty), check_finite=False)
    except np.linalg.LinAlgError:
        return None
    kernel = scipy.linalg.cho_solve((factor, False), right, check_finite=False)
    (pivoted,) = scipy.linalg.get_lapack_funcs(("pstrf",), (correlation,))
    _, _, rank, _ = pivoted(correlation, tol=rounding * largest)
    return _Solved(kernel, factor, int(rank))


def _by_eigenvectors(
    correlation: np.ndarray, penalty: np.ndarray, right: np.ndarray, rounding: float
) -> _Solved:
    """Solves in the directions in which inputs vary; takes ten times as long as Cholesky."""
    values, vectors = np.linalg.eigh(correlation)
    certain = values > max(values[-1], 0) * rounding
    vectors = vectors[:, certain]
    scaled = (vectors.T * penalty) @ vectors + np.diag(values[certain])
    kernel = vectors @ np.linalg.solve(scaled, vectors.T @ right)
    root = np.zeros_like(correlation)
    upper = np.linalg.cholesky(scaled).T
    root[: len(upper)] = upper @ vectors.T
    return _Solved(kernel, root, int(certain.sum()))


def per_unit_regression(moments: Moments) -> Gains:
    """Returns each unit's regression of activation t on pre-activation x.

    `g = Cov(x, t) / Var(x)`, `c = E t − g E x`; where x never varies, `g = 0` and `c = E t`.

    Args:
      moments: unitwise.
    """
    mean_x, mean_t, xx, xt, tt = (
        np.asarray(part, np.float64)
        for part in (moments.mean_x, moments.mean_t, moments.xx, moments.xt, moments.tt)
    )
    varies = ~_constant(xx, mean_x, moments.count)
    gain = np.divide(xt, xx, out=np.zeros_like(xx), where=varies)
    return Gains(gain, mean_t - gain * mean_x, _constant(tt, mean_t, moments.count))


def score(moments: Moments, kernel: np.ndarray, bias: np.ndarray) -> Score:
    """Returns how well `x W + b` predicts t on the tokens of the moments, in closed form.

    Accurate to the moments' own rounding: an error of 1e-3 may be a perfect fit.

    Args:
      moments: full or unitwise; of these tokens, whether fitted on or held out.
      kernel: W, (d_in, d_out); for unitwise moments the gains, (d,).
      bias: b, (d_out,).

    Raises:
      AssertionError: a kernel or a bias whose widths are not those of the moments.
    """
    chex.assert_shape([kernel, bias], [moments.xt.shape, moments.mean_t.shape])
    count, mean_x, mean_t, xx, xt, tt = (
        np.asarray(part, np.float64)
        for part in (
            moments.count,
            moments.mean_x,
            moments.mean_t,
            moments.xx,
            moments.xt,
            moments.tt,
        )
    )
    if not count:
        return Score(None, None)
    if moments.unitwise:
        explained, off = kernel * (2 * xt - kernel * xx), mean_t - mean_x * kernel - bias
    else:
        explained, off = kernel * (2 * xt - xx @ kernel), mean_t - mean_x @ kernel - bias
    varied = tt.sum()
    missed = max(varied - explained.sum() + count * (off**2).sum(), 0.0)
    size = varied + count * (mean_t**2).sum()
    error = float(np.sqrt(missed / size)) if size else 0.0
    return Score(error, float(1 - missed / varied) if varied else None)


def svd_in_metric(
    kernel: np.ndarray, root: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the singular values of `R W`, largest first, and its right singular vectors in rows.

    Args:
      kernel: W, (d_in, d_out).
      root: R as in `LinearMap`; None is the identity, the Frobenius metric.
    """
    _, values, rows = np.linalg.svd(kernel if root is None else root @ kernel, full_matrices=False)
    return values, rows


def truncation_errors(values: np.ndarray) -> np.ndarray:
    """Returns the relative error of keeping r singular values, for every r from 0 to all."""
    tail = np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0)
    return np.sqrt(tail / tail[0]) if tail[0] else tail


def low_rank_factors(kernel: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two factors, (d_in, r) and (r, d_out), of the nearest map of rank r.

    With V the first r right singular vectors of `R W`, in rows: `W Vᵀ V`, nearest in the metric of
    R (reduced-rank regression); each column of the first is as long as its row of the second.

    Args:
      kernel: W, (d_in, d_out).
      rows: V, (r, d_out).

    References:
      Izenman 1975, "Reduced-rank regression for the multivariate linear model", section 2.
    """
    first = kernel @ rows.T
    length = np.sqrt(np.linalg.norm(first, axis=0))
    length = np.where(length > 0, length, 1.0)
    return first / length, rows * length[:, None]


def rank_deficiency(tokens: int, inputs: int, rank: int) -> list[str]:
    """Returns notes on data that cannot determine every weight."""
    if tokens <= inputs:
        return [f"{tokens:,} tokens for {inputs:,} inputs: give more data"]
    return [f"inputs have rank {rank:,} of {inputs:,}"] if rank < inputs else []


def constant_inputs(moments: Moments) -> np.ndarray:
    """Returns which inputs are the same in every token, bool (d_in,)."""
    xx = np.asarray(moments.xx)
    squares = xx if moments.unitwise else np.diagonal(xx)
    return _constant(squares, np.asarray(moments.mean_x), moments.count)


def _constant(squares: np.ndarray, mean: np.ndarray, count: Any) -> np.ndarray:
    """Returns where centred sums of squares are only the rounding of the mean."""
    return np.sqrt(squares / np.asarray(count)) <= _ROUNDING * np.abs(mean)


def _rounding(array: Any) -> float:
    """Returns the fraction of the largest eigenvalue below which others are rounding."""
    wide = np.asarray(array).dtype == np.float64
    return 1e-12 if wide else 8 * float(np.finfo(np.float32).eps)


def penalties(
    deviation: np.ndarray, varies: np.ndarray, weights: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns the penalty of every standardised input, 1 where it contributes its share."""
    penalties, start = np.ones_like(deviation), 0
    for rows in weights:
        own = slice(start, start + len(rows))
        flows = (deviation[own] * np.linalg.norm(np.asarray(rows, np.float64), axis=1)) ** 2
        if flows.any():
            share = np.maximum(flows / flows[varies[own]].mean(), np.finfo(np.float32).eps)
            penalties[own] = np.maximum(1, _SMALL_SHARE / share)
        start = own.stop
    return penalties
