"""Promotion of dtypes in the tests of `train`."""

import jax
import pytest

# These train with optax and Flax's batch norm, whose code promotes implicitly.
_PROMOTE = {"commands", "engine", "protocols", "tasks"}


@pytest.fixture(autouse=True)
def strict_dtype_promotion(request):
    """No implicit promotion of dtypes where nothing is trained."""
    mode = "standard" if request.path.parent.name in _PROMOTE else "strict"
    with jax.numpy_dtype_promotion(mode):
        yield
