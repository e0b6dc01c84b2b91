"""Surgery on a device mesh, in a process of its own with eight simulated devices.

No kernel is copied to the host, none is gathered on a device beyond what its product needs, and
what comes out stands where design says: the first's input axes, the last's output axes.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import re
import jax, numpy as np, lcjax
from jax.sharding import AxisType, NamedSharding
from tests.helpers.trees import random_chain

Array, read = type(jax.numpy.zeros(1)), type(jax.numpy.zeros(1)).__array__

def no_kernel(array, *arguments, **keywords):
    assert array.size == 1, f"an array of shape {array.shape} was copied to the host"
    return read(array, *arguments, **keywords)

# Layout: input and output axis of the first kernel, of the last one, of what comes out, and the
# collectives that the product takes: a sum over a split inner width, one kernel's output axis
# where it is in the way, nothing where both kernels keep their outer axes.
LAYOUTS = [
    ((None, "tensor"), ("tensor", None), (None, None), {"all-reduce"}),
    (("fsdp", None), (None, "tensor"), ("fsdp", "tensor"), set()),
    (("fsdp", "tensor"), ("tensor", "fsdp"), ("fsdp", None), {"all-reduce", "all-gather"}),
    ((None, None), (None, None), (None, None), set()),
]
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"

def tree_on(mesh, host, first, last):
    specs = {
        "dense_0": {"kernel": first, "bias": first[1:]},
        "act_0": {"slope": ()},
        "norm_0": {"scale": first[1:], "bias": first[1:]},
        "dense_1": {"kernel": last, "bias": last[1:]},
    }
    statistics = {"norm_0": {"mean": first[1:], "var": first[1:]}}
    specs = {"params": specs, "batch_stats": statistics}
    put = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, jax.P(*spec)))
    return jax.tree.map(put, host, specs)

_, host = random_chain((16, 24), 32, norm="batch")
want, _ = lcjax.collapse(host)
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(kind, kind))
    for first, last, out, collectives in LAYOUTS:
        tree = tree_on(mesh, host, first, last)
        Array.__array__ = no_kernel
        compact, _ = lcjax.collapse(tree)
        abstract, _ = lcjax.abstract_collapse(tree, "act_0")
        Array.__array__ = read
        for name, spec in (("kernel", out), ("bias", out[1:])):
            leaf, place = compact["params"]["dense_1"][name], NamedSharding(mesh, jax.P(*spec))
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim), (out, leaf.sharding)
            planned = abstract["params"]["dense_1"][name]
            assert planned.sharding.is_equivalent_to(place, leaf.ndim), (out, planned.sharding)
            np.testing.assert_allclose(leaf, want["params"]["dense_1"][name], rtol=1e-4, atol=1e-4)
        inside = jax.jit(lambda tree: lcjax.collapse(tree, "act_0")[0])
        program = inside.lower(tree).compile().as_text()
        found = set(re.findall(rf"({COLLECTIVES})(?:-start)?\\(", program))
        assert found <= collectives, (kind, out, found)
        got = inside(tree)["params"]["dense_1"]["kernel"]
        np.testing.assert_allclose(got, want["params"]["dense_1"]["kernel"], rtol=1e-4, atol=1e-4)

try:
    Array.__array__ = no_kernel
    np.asarray(tree["params"]["dense_0"]["kernel"])
except AssertionError:
    print("no kernel was copied")  # and one that is would have been seen
"""


@pytest.mark.slow
def test_collapse_on_a_mesh_gathers_no_kernel():
    mesh = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | mesh, capture_output=True, text=True
    )
    assert done.stdout == "no kernel was copied\n", done.stderr
