"""Memory and collectives per device of a training step, deep and compact, from compiled programs.

`python -m benchmarks scaling_in_devices`: the real step is compiled for 8, 64 and 512 simulated
devices, in one process for each number, from abstract weights; nothing runs. Its costs are linear
in depth, so it is compiled for 2 and 4 layers and extrapolated; a check at 8 layers gave every
collective and its bytes exactly. The state between steps is counted at full depth.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.harness.hlo import collectives
from benchmarks.harness.publish import RESULTS, Column, Table, publish, tabulate
from benchmarks.networks import FORMS, NETWORKS, Form, Network
from train.engine.loop import TrainState, state_shardings
from train.runtime.devices import DevicesConfig, make_mesh
from train.runtime.sharding import BATCH

MESHES = {
    "8": "fsdp=8",
    "64": "data=8,fsdp=8",
    "512": "data=16,fsdp=8,tensor=4",
}
NAMES = ("ViT-L/16", "GPT-2 XL")
LAYERS = (2, 4)
CHILD = "import sys; from benchmarks.cost.scaling_in_devices import child; child(*sys.argv[1:])"
# Without LLVM's optimizations: the code never runs.
_FLAGS = "--xla_force_host_platform_device_count={} --xla_backend_optimization_level=0"


def child(network: str, form: Form, devices: str) -> None:
    """Prints, as JSON, the costs of a step per device; needs a process with so many devices."""
    whole = NETWORKS[network]()
    mesh = make_mesh(DevicesConfig(mesh=MESHES[devices]))
    assert mesh is not None
    with jax.set_mesh(mesh):
        small, large = (compiled_step(_with_depth(whole, n), form, mesh) for n in LAYERS)
        step = _extrapolated(whole.module.depth, small, large)
        print(json.dumps(step | _state_bytes(_placed(whole, form, mesh))))


def _with_depth(network: Network, depth: int) -> Network:
    """Returns the network with another number of layers."""
    module = network.module.clone(depth=depth)
    objective = dataclasses.replace(network.objective, module=module)
    return dataclasses.replace(network, objective=objective)


def _placed(network: Network, form: Form, mesh: Any) -> TrainState:
    """Returns the abstract state with its shardings."""
    variables = network.abstract(form)
    tx = network.tx(form)
    state = jax.eval_shape(lambda tree: TrainState.create(tree, tx), variables)
    return jax.tree.map(_on, state, state_shardings(state, tx, mesh))


def _on(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _state_bytes(state: TrainState) -> dict[str, int]:
    """Returns the bytes of the state on one device."""

    def size(tree: Any) -> int:
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )

    return {"params_bytes": size(state.params), "optimizer_bytes": size(state.opt_state)}


def compiled_step(network: Network, form: Form, mesh: Any) -> dict[str, Any]:
    """Returns, per device, memory in bytes and collectives of the compiled step.

    Args:
      network: its batch is that of one device.
      form: of the network.
      mesh: of the devices.
    """
    state = _placed(network, form, mesh)
    sharding = NamedSharding(mesh, PartitionSpec(None, *BATCH))
    abstract = network.abstract_inputs(network.batch_size * mesh.size)
    inputs = jax.tree.map(lambda leaf: _on(leaf, sharding), abstract)
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    compiled = network.dispatch(form, placed).lower(state, (), inputs).compile()
    memory: Any = compiled.memory_analysis()
    return {
        "arguments_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "collectives": collectives(compiled.as_text()),
    }


def _extrapolated(layers: int, small: Any, large: Any) -> Any:
    """Returns the numbers for this many layers, on the line through those at `LAYERS`."""
    if isinstance(small, dict):
        names = [*small, *(name for name in large if name not in small)]
        nothing = {"count": 0, "bytes": 0}
        return {
            n: _extrapolated(layers, small.get(n, nothing), large.get(n, nothing)) for n in names
        }
    return round(small + (large - small) * (layers - LAYERS[0]) / (LAYERS[1] - LAYERS[0]))


def measure(network: str, form: Form, devices: str) -> dict[str, Any]:
    """Returns memory and collectives per device, from a process with so many devices."""
    flags = {"XLA_FLAGS": _FLAGS.format(devices), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, network, form, devices],
        env=os.environ | flags,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main(
    networks: tuple[str, ...] = NAMES,
    devices: tuple[str, ...] = tuple(MESHES),
    results_dir: Path = RESULTS,
) -> None:
    """Compiles, prints tables and writes a JSON.

    Args:
      networks: names of networks.
      devices: numbers of devices.
      results_dir: directory of results.
    """
    found = []
    for network in networks:
        for count in devices:
            forms = {form: measure(network, form, count) for form in FORMS}
            found.append(
                {"network": network, "devices": int(count), "mesh": MESHES[count], **forms}
            )
            print(f"{network} on {count} devices: compiled", flush=True)
    examples = {name: NETWORKS[name]().batch_size for name in networks}
    config = {"dtype": "bfloat16", "examples_a_device": examples, "layers_compiled": list(LAYERS)}
    publish("scaling_in_devices", config, found, *_tables(found), results_dir=results_dir)


def _tables(found: list[dict[str, Any]]) -> tuple[Table, Table]:
    memory = [(each, form) for each in found for form in FORMS]
    moved = [
        (each, kind)
        for each in found
        for kind in sorted({kind for form in FORMS for kind in each[form]["collectives"]})
    ]
    return (
        tabulate(
            _MEMORY,
            memory,
            "Memory per device. Params and AdamW's moments are float32. Temporary memory is "
            "that of a program for CPUs: bfloat16 widened, attention matrices kept, no --remat",
        ),
        tabulate(
            _COLLECTIVES,
            moved,
            "Collectives of a step per device, and the bytes of their outputs. The CPU's compiler "
            "widens those of bfloat16 to float32, twice the bytes, and uses an all-reduce and a "
            "slice where others use a reduce-scatter",
        ),
    )


def _case(row: tuple[dict[str, Any], str]) -> str:
    return f"{row[0]['network']}, {row[0]['mesh']}"


def _gib(name: str) -> Any:
    return lambda row: row[0][row[1]][name] / 2**30


def _collective(form: Form, name: str, unit: int = 1) -> Any:
    none = {"count": 0, "bytes": 0}
    return lambda row: row[0][form]["collectives"].get(row[1], none)[name] / unit


_MEMORY = (
    Column("network and mesh", _case),
    Column("form", lambda row: row[1]),
    Column("params, GiB", _gib("params_bytes"), "{:.2f}"),
    Column("optimizer, GiB", _gib("optimizer_bytes"), "{:.2f}"),
    Column("temporary, GiB", _gib("temporary_bytes"), "{:.2f}"),
)
_COLLECTIVES = (
    Column("network and mesh", _case),
    Column("collective", lambda row: row[1]),
    *(Column(form, _collective(form, "count"), "{:,.0f}") for form in FORMS),
    *(Column(f"{form}, GiB", _collective(form, "bytes", 2**30), "{:.2f}") for form in FORMS),
)


if __name__ == "__main__":
    tyro.cli(main)
