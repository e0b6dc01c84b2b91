"""Peak memory of a streamed collapse of a traced function does not grow with its layers."""

from pathlib import Path

import numpy as np
import orbax.checkpoint as orbax
import pytest

from tests.lcjax.io.checkpoints import run_python

WIDTH, HIDDEN = 512, 4096  # 16 MiB a layer
COLLAPSE = """
import re, sys
import jax, jax.numpy as jnp
from lcjax.io import streaming
from lcjax.io.reader import open_checkpoint
from lcjax.io.traced import collapse_traced, contents_of, function_source

def apply(params, x):
    for layer in params.values():
        x = x + jax.nn.relu(x @ layer["up"]["kernel"]) @ layer["down"]["kernel"]
    return x

streaming._GROUP_BYTES = 2**24
contents = contents_of(open_checkpoint(sys.argv[1]))
source = function_source(contents, apply, [jax.ShapeDtypeStruct((1, 512), jnp.float32)])
report = collapse_traced(source, sys.argv[2], source.call.sites.paths[::2], max_gap=1)
status = open("/proc/self/status").read()
print(len(report.collapsed), re.search("VmHWM:\\s+(\\d+)", status)[1])
"""

# glibc then returns freed arrays to the system, so that the peak is of what the program has in use.
RETURNED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "1000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000",
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.slow
def test_peak_memory_is_that_of_one_chain(tmp_path):
    random = np.random.default_rng(0)
    layer = {
        "up": {"kernel": random.normal(size=(WIDTH, HIDDEN)).astype(np.float32)},
        "down": {"kernel": random.normal(size=(HIDDEN, WIDTH)).astype(np.float32)},
    }
    peaks = []
    for layers in (2, 18):
        with orbax.StandardCheckpointer() as checkpointer:
            tree = {f"layer_{i}": layer for i in range(layers)}
            checkpointer.save(tmp_path / f"deep{layers}", tree)
        places = tmp_path / f"deep{layers}", tmp_path / f"out{layers}"
        done = run_python(COLLAPSE, *places, **RETURNED)
        collapsed, peak = map(int, done.stdout.splitlines()[-1].split())
        assert collapsed == layers // 2
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 100 * 1024, peaks  # KiB; 16 more layers have 256 MiB
