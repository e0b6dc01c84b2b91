"""Fixtures for every test."""

import jax
import pytest


@pytest.fixture
def strict_promotion():
    """No silent dtype or rank promotion; for what calls neither optax nor a batch norm of Flax."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
