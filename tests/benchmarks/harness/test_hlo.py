"""Compiled programs: collectives and kinds of operations, from HLO."""

import os
import subprocess
import sys

import pytest

from benchmarks.harness.hlo import collectives, operation_kinds

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


def test_collectives_counts_each_once_with_output_bytes():
    assert collectives(HLO) == {
        "all-gather": {"count": 2, "bytes": 16 * 4 * 2 + 32 * 4 * 4},
        "all-reduce": {"count": 1, "bytes": 4 + 3 + 5},
        "collective-permute": {"count": 1, "bytes": 8 * 4},
    }
    assert collectives("") == {}


_SUM = """
import jax
from benchmarks.harness.hlo import collectives
mesh = jax.make_mesh((4,), ("data",))
where = jax.NamedSharding(mesh, jax.P("data"))
x = jax.ShapeDtypeStruct((8, 6), "float32", sharding=where)
text = jax.jit(lambda x: x.sum(0)).lower(x).compile().as_text()
assert collectives(text) == {"all-reduce": {"count": 1, "bytes": 24}}, text
"""


@pytest.mark.slow
def test_collectives_reads_compiled_program():
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", _SUM], check=True, env=os.environ | devices)


def test_operation_kinds_follow_origin_and_copies_their_name():
    text = """
  %dot.1 = f32[2] fusion(), metadata={op_name="jit(f)/jvp(M)/mlp/dense_0/dot_general"}
  ROOT copy_fusion.2 = f32[2] fusion(), metadata={op_name="jit(f)/jvp(M)/mlp/dense_0/dot_general"}
  exp.3 = f32[2] exponential(), metadata={op_name="jit(f)/jvp(M)/mlp/act_0/erf"}
  div.4 = f32[2] divide(), metadata={op_name="jit(f)/jvp(M)/attention/div"}
  mul.5 = f32[2] multiply(), metadata={op_name="jit(f)/optimizer/mul"}
  add.6 = f32[2] add()
"""
    assert list(operation_kinds(text).values()) == [
        *("matrix products", "copies", "activations", "attention", "optimizer", "rest")
    ]
