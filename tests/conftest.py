"""What every run of the tests needs, however pytest is started; subprocesses inherit it."""

import os

import jax
import pytest

# Modules without tests: imported by tests, some only where their libraries are installed.
collect_ignore_glob = ["helpers/*", "reference/*", "readme/quickstart*"]

# Set JAX_PLATFORMS to run on an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def pytest_configure(config):
    """Compiles quick tests without LLVM's optimizations, which is a quarter less work in all."""
    flags = os.environ.get("XLA_FLAGS", "")
    if config.option.markexpr == "not slow" and "optimization_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()


@pytest.fixture(autouse=True)
def strict_dtype_promotion(request):
    """No implicit promotion of dtypes, except in tests marked `promotes`."""
    promotes = request.node.get_closest_marker("promotes")
    with jax.numpy_dtype_promotion("standard" if promotes else "strict"):
        yield


@pytest.fixture
def strict_promotion(strict_dtype_promotion):
    """No implicit promotion of dtypes or ranks."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
