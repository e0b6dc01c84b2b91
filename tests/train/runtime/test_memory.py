"""Memory that a step frees is not asked of the kernel again."""

import platform
import subprocess
import sys

import pytest

_PAGES_OF_A_CALL = """
import resource, statistics, sys
from train.runtime.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import jax, jax.numpy as jnp
call = jax.jit(lambda x: x @ (x.T @ x))
x = jnp.ones((2, 4000))  # 64 MB of scratch memory between the products
faults = []
for _ in range(25):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the option is of glibc's malloc")
def test_scratch_memory_stays_with_the_process():
    def pages(how: str) -> float:
        command = [sys.executable, "-c", _PAGES_OF_A_CALL, how]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert pages("keep") < 1000
    given_back = pages("give back")
    if given_back < 20:  # a kernel, or a malloc, that keeps the memory as well
        pytest.skip("memory given back causes no page faults here")
    assert given_back > 10_000
