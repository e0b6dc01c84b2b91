"""What is read of collectives from HLO."""

import os
import subprocess
import sys

import pytest

from benchmarks.collectives import collectives
from tests.train.engine.test_mesh import devices

HLO = """
ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %all-gather.1 = bf16[16,4]{1,0:T(8,128)(2,1)} all-gather(%p), dimensions={0}
  %all-gather-start.2 = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%p), dimensions={0}
  %all-gather-done.2 = f32[32,4]{1,0} all-gather-done(%all-gather-start.2)
  %all-reduce = (f32[], s8[3]{0}, /*index=2*/pred[5]{0}) all-reduce(%a, %b, %c), to_apply=%sum
  %fusion = f32[8,4]{1,0} fusion(%p), metadata={op_name="all-gather(x) all-reduce(y)"}
  ROOT %permuted = f8e4m3fn[8,4]{1,0} collective-permute(%p), source_target_pairs={{0,1}}
}
"""


def test_each_collective_is_told_once_with_the_bytes_that_come_out():
    assert collectives(HLO) == {
        "all-gather": {"count": 2, "bytes": 16 * 4 * 2 + 32 * 4 * 4},
        "all-reduce": {"count": 1, "bytes": 4 + 3 + 5},
        "collective-permute": {"count": 1, "bytes": 8 * 4},
    }
    assert collectives("") == {}


_SUM = """
import jax
from benchmarks.collectives import collectives
mesh = jax.make_mesh((4,), ("data",))
where = jax.NamedSharding(mesh, jax.P("data"))
x = jax.ShapeDtypeStruct((8, 6), "float32", sharding=where)
whole = jax.jit(lambda x: x.sum(0)).lower(x).compile()
assert collectives(whole.as_text()) == {"all-reduce": {"count": 1, "bytes": 24}}, whole.as_text()
"""


@pytest.mark.slow
def test_a_compiled_program_is_read():
    subprocess.run([sys.executable, "-c", _SUM], check=True, env=os.environ | devices(4))
