"""Kept units on a mesh of four devices, and moments of two processes, each in new processes."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

import lcjax
from lcjax.calibration.on_mesh import in_blocks, mesh_of, to_host
from tests.helpers.devices import devices
from tests.helpers.trees import random_chain, with_slopes

CASES = [
    (lcjax.Units(8), "equal"),
    (lcjax.Units(8), "influence"),
    (lcjax.LeastSquares() + lcjax.Units(8), "equal"),
    (lcjax.Remove(), "equal"),
    (lcjax.LowRank(3), "equal"),
]


@pytest.mark.slow
def test_one_device_equals_four():
    done = subprocess.run(
        [sys.executable, "-m", "tests.lcjax.surgery.test_units_on_devices"],
        env=os.environ | devices(4),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 2 * len(CASES)


@pytest.mark.slow
def test_moments_of_two_processes_equal_those_of_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.lcjax.surgery.test_units_on_devices", address]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = [subprocess.Popen([*command, str(i)], **pipes) for i in range(2)]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0 and "moments equal" in out, err


def _in_two_processes(address, number):
    jax.distributed.initialize(address, 2, int(number))
    model, variables = random_chain((16, 6), 12)
    x = np.random.default_rng(0).normal(size=(160, 12)).astype(np.float32)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def place(leaf, *spec):
        leaf, sharding = np.asarray(leaf), NamedSharding(mesh, jax.P(*spec))
        return jax.make_array_from_callback(leaf.shape, sharding, lambda part: leaf[part])

    found = [
        lcjax.calibrate(model.apply, tree, [batch], fit=lcjax.Units(8))
        for tree, batch in ((variables, x), (jax.tree.map(place, variables), place(x, "data")))
    ]
    alone, together = ([*stats.train.values(), *stats.held_out.values()] for stats in found)
    assert alone[0].xx.shape == (28, 28)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), alone, together
    )
    print("moments equal")


def _sharded(params, mesh):
    """Returns params split over hidden units, as for tensor parallelism, and the others whole."""
    specs = {"dense_0": (None, "model"), "dense_1": ("model", None)}

    def place(keys, leaf):
        name, kind = (key.key for key in keys)
        spec = specs.get(name, ()) if kind != "slope" else ()
        spec = spec[-1:] if kind == "bias" else spec
        return jax.device_put(leaf, NamedSharding(mesh, jax.P(*spec)))

    return jax.tree_util.tree_map_with_path(place, params)


def _check_blocks(kind):
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind,) * 2)
    with jax.set_mesh(mesh):
        tree = {"xx": np.eye(8, 3), "odd": np.eye(7, 3), "mean": np.ones(8)}
        placed = jax.jit(lambda given: in_blocks(given, mesh))(tree)
    shapes = {name: leaf.sharding.shard_shape(leaf.shape) for name, leaf in placed.items()}
    assert shapes == {"xx": (2, 3), "odd": (7, 3), "mean": (8,)} and mesh_of(placed) == mesh
    jax.tree.map(np.testing.assert_array_equal, to_host(placed), tree)


def _main():
    _check_blocks(AxisType.Auto)
    _check_blocks(AxisType.Explicit)
    model, variables = random_chain((16, 6), 12)
    variables = with_slopes(variables, 0.2)
    x = np.random.default_rng(0).normal(size=(160, 12)).astype(np.float32)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    split = {"params": _sharded(variables["params"], mesh)}
    batch = jax.device_put(x, NamedSharding(mesh, jax.P("data")))
    for fit, weighting in CASES:
        whole, compact = (
            lcjax.collapse_sequential(
                model.apply, tree, lcjax.CalibrationData([inputs], weighting=weighting), fit=fit
            )[0]
            for tree, inputs in ((variables, x), (split, batch))
        )
        np.testing.assert_allclose(
            jax.jit(model.apply)(compact, batch), model.apply(whole, x), rtol=1e-3, atol=1e-3
        )
        print("values equal")
        if fit.name == "units":
            params = compact["params"]
            assert params["dense_0"]["kernel"].sharding.spec == jax.P(None, "model")
            assert params["dense_1"]["kernel"].sharding.spec == jax.P("model", None)
            assert params["dense_0"]["bias"].sharding.spec == jax.P("model")
        meshes = {leaf.sharding.mesh for leaf in jax.tree.leaves(compact["params"])}
        assert meshes == {mesh}
        print("meshes equal")


if __name__ == "__main__":
    _in_two_processes(*sys.argv[1:]) if sys.argv[1:] else _main()
