"""Ridge regression on many inputs with one float64 matrix in memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from lcjax.algebra import regression
from lcjax.algebra.moments import Moments


@partial(jax.jit, donate_argnums=0)
def through_origin(moments: Moments) -> Moments:
    """Returns the moments about 0, whose fits have no bias.

    Args:
      moments: about the mean; full. Donated.
    """
    count, x, t = moments.count, moments.mean_x, moments.mean_t
    return Moments(
        count=count,
        mean_x=jnp.zeros_like(x),
        mean_t=jnp.zeros_like(t),
        xx=moments.xx + count * jnp.outer(x, x),
        xt=moments.xt + count * jnp.outer(x, t),
        tt=moments.tt + count * jnp.sum(t**2),
    )


def ridge_in_place(
    moments: Moments, ridge: float, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns kernel and bias of `regression.least_squares`; None where Cholesky cannot find them.

    With the rows as the prior. Needs one float64 matrix of (n, n) next to the moments, where that
    function needs five.

    Args:
      moments: full, of n inputs.
      ridge: above 0.
      rows: the kernel that the inputs are multiplied by, (n, width): weights and prior.
    """
    count = float(moments.count)
    varies = ~regression.constant_inputs(moments)
    squares = np.diagonal(moments.xx).astype(np.float64) / count
    deviation = np.sqrt(np.where(varies, squares, 0))
    unit = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    penalty = regression.around_prior(ridge, moments)
    penalty = penalty * regression.penalties(deviation, varies, (rows,))  # before larger arrays
    rows = np.asarray(rows, np.float32)
    right = np.asfortranarray(moments.xt, np.float64)
    right -= np.asarray(moments.xx) @ rows  # float32, as both moments are
    matrix = np.asfortranarray(moments.xx, np.float64)
    matrix *= unit[:, None] / count
    matrix *= unit
    matrix[np.diag_indices_from(matrix)] += penalty
    right *= unit[:, None] / count
    try:
        factor = scipy.linalg.cholesky(matrix, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    kernel = scipy.linalg.cho_solve((factor, False), right, overwrite_b=True, check_finite=False)
    kernel *= unit[:, None]
    kernel += rows
    mean_x = np.asarray(moments.mean_x, np.float64)
    return kernel, np.asarray(moments.mean_t, np.float64) - mean_x @ kernel
