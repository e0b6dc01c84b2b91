"""What every run of the tests needs, however pytest is started; subprocesses inherit it."""

import gc
import os
import tempfile

import jax
import pytest

# Modules without tests: imported by tests, some only where their libraries are installed.
collect_ignore_glob = ["helpers/*", "reference/*", "readme/quickstart*"]

# Set JAX_PLATFORMS to run on an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def pytest_configure(config):
    """Saves compilation, threads and collection of garbage, much of the time of the quick tests."""
    flags = os.environ.get("XLA_FLAGS", "")
    if config.option.markexpr == "not slow" and "optimization_level" not in flags:
        flags += " --xla_backend_optimization_level=0"
        if jax.__version_info__ < (0, 11):  # later versions refuse it
            flags += " --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = flags.strip()
    share_programs(config)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of workers, which fill the cores
    gc.set_threshold(100_000)  # JAX makes many objects; collecting them was a tenth of the time


def share_programs(config):
    """Compiles a program once in a run, whatever tests, workers and subprocesses use it.

    JAX keeps compiled programs in a directory, which this run makes and removes unless
    JAX_COMPILATION_CACHE_DIR names one.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        directory = tempfile.TemporaryDirectory(prefix="programs-", ignore_cleanup_errors=True)
        config.add_cleanup(directory.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = directory.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # however small
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


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
