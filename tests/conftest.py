"""What every run of the tests needs, however pytest is started; subprocesses inherit it."""

import os

import jax
import pytest

# Set JAX_PLATFORMS to run on an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def pytest_configure(config):
    """Compiles quick tests without LLVM's optimizations: their programs run only briefly.

    Reported as a quarter less work for the quick suite. Slow tests are compiled as usual.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if config.option.markexpr == "not slow" and "optimization_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """No implicit dtype or rank promotion, except in tests marked `promotes`."""
    if request.node.get_closest_marker("promotes"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
