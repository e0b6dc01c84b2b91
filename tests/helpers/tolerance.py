"""The tolerance of numerical tests, from the dtype and the length of the contraction."""

import jax.numpy as jnp
import numpy as np


def assert_close(got, want, *, dtype, terms: int):
    """Asserts agreement within the rounding error of sums of `terms` products."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    bound = 4 * float(jnp.finfo(dtype).eps) * np.sqrt(terms) * max(1.0, np.abs(want).max())
    assert np.abs(got - want).max() <= bound, f"{np.abs(got - want).max()} > {bound}"
