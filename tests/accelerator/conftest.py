"""These tests skip where JAX has no accelerator; `REQUIRE_ACCELERATOR` decides otherwise.

With 1 they fail instead, so that a run on a GPU cannot pass by skipping; with 0 they run on
whatever there is, which shows that they run.
"""

import os

import jax
import pytest

VARIABLE = "REQUIRE_ACCELERATOR"
RUN = f"On a machine with one run `make test-accelerator`; {VARIABLE}=0 runs them on the CPU."


@pytest.fixture(autouse=True, scope="session")
def accelerator():
    """The backend that the tests run on."""
    wanted, backend = os.environ.get(VARIABLE, ""), jax.default_backend()
    if wanted not in ("", "0", "1"):
        pytest.fail(f"{VARIABLE}: got {wanted!r}, expected 0 or 1.")
    if backend == "cpu" and wanted != "0":
        say = pytest.fail if wanted == "1" else pytest.skip
        say(f"JAX's default backend is cpu, no accelerator. {RUN}")
    return backend
