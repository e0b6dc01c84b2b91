"""Strictness for every test: no silent dtype or rank promotion."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def strict_promotion():
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
