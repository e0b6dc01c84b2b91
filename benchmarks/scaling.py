"""Scaling on paper: what one device holds and receives in a training step, deep and compact.

`python -m benchmarks.scaling`: the real step is compiled for 8, 64 and 512 simulated devices, in a
process for each number, from abstract weights; nothing runs. Everything in it grows linearly with
depth, so it is compiled for 2 and 4 layers, and the rest is the line through the two: at 8 layers,
where that was tried, it tells every collective and its bytes. What is held between steps is counted
at full depth.
"""

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

from benchmarks.collectives import collectives
from benchmarks.record import RESULTS, Table, publish
from benchmarks.subjects import FORMS, Form, Subject, gpt2, vit
from train.engine.loop import TrainState
from train.runtime.devices import DevicesConfig, make_mesh
from train.runtime.sharding import BATCH, shardings

MESHES = {
    "8": "fsdp=8",
    "64": "data=8,fsdp=8",
    "512": "data=16,fsdp=8,tensor=4",
}
# How a network is made, and how many examples there are a device: images, windows of 1,024 tokens.
NETWORKS = {"ViT-L/16": (vit, "L/16", 32), "GPT-2 XL": (gpt2, "XL", 4)}
LAYERS = (2, 4)
CHILD = "import sys; from benchmarks.scaling import child; child(*sys.argv[1:])"
# LLVM's optimizations are left out: its code never runs.
_FLAGS = "--xla_force_host_platform_device_count={} --xla_backend_optimization_level=0"


def child(network: str, form: Form, devices: str) -> None:
    """Prints what a step takes of every device, as JSON, where there are so many devices."""
    make, preset, each = NETWORKS[network]
    whole = make(preset)
    layers: int = whole.classifier.module.depth  # type: ignore
    mesh = make_mesh(DevicesConfig(mesh=MESHES[devices]))
    assert mesh is not None
    with jax.set_mesh(mesh):
        small, large = (compiled_step(make(preset, depth=n), form, each, mesh) for n in LAYERS)
        step = _at(layers, small, large)
        print(json.dumps(step | _held(_placed(whole, form, mesh))))


def _placed(subject: Subject, form: Form, mesh: Any) -> TrainState:
    """Returns the abstract state with its shardings."""
    variables = subject.abstract(form)
    state = jax.eval_shape(lambda tree: TrainState.create(tree, subject.tx(form)), variables)
    return jax.tree.map(_on, state, shardings(state, variables, mesh))


def _on(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _held(state: TrainState) -> dict[str, int]:
    """Returns the bytes that a device holds between steps."""

    def size(tree: Any) -> int:
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )

    return {"params_bytes": size(state.params), "optimizer_bytes": size(state.opt_state)}


def compiled_step(subject: Subject, form: Form, each: int, mesh: Any) -> dict[str, Any]:
    """Returns what the compiled step takes of a device: memory in bytes, and collectives.

    Args:
      subject: the network.
      form: of it.
      each: examples of a batch a device.
      mesh: of the devices.
    """
    state = _placed(subject, form, mesh)
    cut = NamedSharding(mesh, PartitionSpec(None, *BATCH))
    inputs = jax.tree.map(lambda leaf: _on(leaf, cut), subject.inputs(each * mesh.size))
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    compiled = subject.dispatch(form, placed).lower(state, (), inputs).compile()
    memory: Any = compiled.memory_analysis()
    return {
        "arguments_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "collectives": collectives(compiled.as_text()),
    }


def _at(layers: int, small: Any, large: Any) -> Any:
    """Returns the numbers at so many layers, on the line through those at `LAYERS`."""
    if isinstance(small, dict):
        names = [*small, *(name for name in large if name not in small)]
        nothing = {"count": 0, "bytes": 0}
        return {n: _at(layers, small.get(n, nothing), large.get(n, nothing)) for n in names}
    return round(small + (large - small) * (layers - LAYERS[0]) / (LAYERS[1] - LAYERS[0]))


def measure(network: str, form: Form, devices: str) -> dict[str, Any]:
    """Returns what a device holds and receives, from a process with so many of them."""
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
    networks: tuple[str, ...] = tuple(NETWORKS),
    devices: tuple[str, ...] = tuple(MESHES),
    results_dir: Path = RESULTS,
) -> None:
    """Compiles, prints tables and writes a JSON.

    Args:
      networks: which of them.
      devices: how many there are to be.
      results_dir: where results are written.
    """
    found = []
    for network in networks:
        for count in devices:
            forms = {form: measure(network, form, count) for form in FORMS}
            found.append(
                {"network": network, "devices": int(count), "mesh": MESHES[count], **forms}
            )
            print(f"{network} on {count} devices: compiled", flush=True)
    examples = {name: NETWORKS[name][2] for name in networks}
    config = {"dtype": "bfloat16", "examples_a_device": examples, "layers_compiled": list(LAYERS)}
    publish("scaling", config, found, *_tables(found), results_dir=results_dir)


def _tables(found: list[dict[str, Any]]) -> tuple[Table, Table]:
    names = ("params_bytes", "optimizer_bytes", "temporary_bytes")
    held = [
        (_subject(each), form, *(_gib(each[form][name]) for name in names))
        for each in found
        for form in FORMS
    ]
    moved = [
        (_subject(each), kind, *_moved(*(each[form]["collectives"].get(kind) for form in FORMS)))
        for each in found
        for kind in sorted({kind for form in FORMS for kind in each[form]["collectives"]})
    ]
    return (
        Table(
            ("network and mesh", "form", "params, GiB", "optimizer, GiB", "temporary, GiB"),
            held,
            "What a device holds. Params and AdamW's moments are float32. Temporary memory is the "
            "CPU's compiler's, with bfloat16 widened, attention matrices kept and no --remat",
        ),
        Table(
            ("network and mesh", "collective", "deep", "compact", "deep, GiB", "compact, GiB"),
            moved,
            "Collectives of a step on each device, and how much comes out of them. The CPU's "
            "compiler takes those of bfloat16 in float32, twice the bytes, and an all-reduce and a "
            "slice where others have a reduce-scatter",
        ),
    )


def _subject(found: dict[str, Any]) -> str:
    return f"{found['network']}, {found['mesh']}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"


def _moved(*forms: dict[str, int] | None) -> list[str]:
    told = [form or {"count": 0, "bytes": 0} for form in forms]
    return [f"{each['count']:,}" for each in told] + [_gib(each["bytes"]) for each in told]


if __name__ == "__main__":
    tyro.cli(main)
