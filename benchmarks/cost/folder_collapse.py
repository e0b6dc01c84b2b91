"""Collapse of a model folder: peak memory, and time compared with its lower bound.

`python -m benchmarks folder_collapse --preset Llama-3.1-8B`: a folder of a Llama with random
bfloat16 weights goes through `lcjax collapse-model` in a process of its own. For comparison another
process reads all weights once, writes those of the compact folder once, and takes the matrix
products and the float64 factorizations of the collapse with one layer's shapes. Files are dropped
from the cache of the operating system before each of the two. Processor time is that of all cores;
on a machine with other work it says more than wall time.
"""

import collections
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import tyro

from benchmarks.cost.streaming_collapse import COMMAND, measured
from benchmarks.harness.llama_folder import TEXTS, llama, matrices
from benchmarks.harness.publish import RESULTS, Table, publish
from lcjax.folder import FolderOptions
from lcjax.models import DecoderConfig

_CALL = "import sys; from benchmarks.{0} import {1}; {1}(*sys.argv[1:])"
MAKE = _CALL.format("harness.llama_folder", "make")
ALONE = _CALL.format("cost.folder_collapse", "alone")
PARTS = ("reading", "writing", "products", "solving")
_CHUNK = 2**26  # bytes that are read or written at once


def alone(source: str, target: str, preset: str, kept: str, tokens: str, held_out: str) -> None:
    """Prints the seconds, wall and processor, of reading, writing, products and solving.

    Args:
      source: folder that is read.
      target: compact folder, as large a file as which is written next to it.
      preset: of the shapes; products are those of the folder's number of layers.
      kept: number of hidden units that stay.
      tokens: number of tokens.
      held_out: number of those that have a loss.
    """
    forget(Path(source))
    depth = json.loads((Path(source) / "config.json").read_text())["num_hidden_layers"]
    config = llama(preset, depth)
    reading = _seconds(lambda: [_read(file) for file in weights(Path(source))])
    size = sum(file.stat().st_size for file in weights(Path(target)))
    writing = _seconds(lambda: _write(Path(target).with_name("written"), size))
    rows, units = int(tokens), int(kept)
    shapes = collections.Counter(products(config, units))
    layer = sum(number * _product(rows, inner, outer) for (outer, inner), number in shapes.items())
    layer = layer + _product(units, rows, units) + _product(units, rows, config.width)
    head = 3 * _product(int(held_out), config.width, config.vocab_size)
    solving = depth * _solving(units, config.width)
    print(*reading, *writing, *(depth * layer + head), *solving)


def products(config: DecoderConfig, units: int) -> list[tuple[int, int]]:
    """Returns shapes (out, in) of the matrices that all tokens are multiplied by in one layer.

    A deep pass, one for moments without the last matrix, a compact pass.
    """
    deep = matrices(config)
    attention = [shape for name, shape in deep.items() if name.startswith("self_attn")]
    first, last = (units, config.width), (config.width, units)
    return [*deep.values(), *attention, first, first, *attention, first, first, last]


def _product(rows: int, inner: int, columns: int) -> np.ndarray:
    """Returns the seconds of a float32 product of (rows, inner) and (inner, columns)."""
    a, b = jnp.ones((rows, inner), jnp.float32), jnp.ones((inner, columns), jnp.float32)
    run = jax.jit(jnp.dot)
    jax.block_until_ready(run(a, b))
    return _seconds(lambda: jax.block_until_ready(run(a, b)))


def _solving(units: int, width: int) -> np.ndarray:
    """Returns the seconds of a Cholesky factorization and its solutions, float64."""
    matrix = np.asfortranarray(np.full((units, units), 0.5))
    matrix[np.diag_indices(units)] = 1.0
    right = np.ones((units, width), order="F")

    def run() -> None:
        factor = scipy.linalg.cholesky(matrix, overwrite_a=True, check_finite=False)
        scipy.linalg.cho_solve((factor, False), right, overwrite_b=True, check_finite=False)

    return _seconds(run)


def _seconds(run: Callable[[], Any]) -> np.ndarray:
    """Returns the seconds of a call: of the wall clock and of the processor."""
    start = np.array([time.perf_counter(), time.process_time()])
    run()
    return np.array([time.perf_counter(), time.process_time()]) - start


def _of_children() -> float:
    """Returns the processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def weights(folder: Path) -> list[Path]:
    """Returns the files of weights of a folder."""
    return sorted(folder.glob("*.safetensors"))


def forget(folder: Path) -> None:
    """Drops a folder's weights from the cache of the operating system, where it lets us."""
    for file in weights(folder):
        opened = os.open(file, os.O_RDONLY)
        os.fsync(opened)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)


def _read(file: Path) -> None:
    buffer = bytearray(_CHUNK)
    with open(file, "rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def _write(file: Path, size: int) -> None:
    buffer = os.urandom(_CHUNK)
    with open(file, "wb", buffering=0) as opened:
        for start in range(0, size, _CHUNK):
            opened.write(memoryview(buffer)[: min(_CHUNK, size - start)])
        os.fsync(opened.fileno())
    file.unlink()


def main(
    preset: str = "Llama-3.1-8B",
    depth: int = 0,
    kept: int = 9216,
    texts: int = 16,
    length: int = 64,
    buffer: int = FolderOptions.buffer,
    directory: Path = Path("runs/benchmark/folder"),
    results_dir: Path = RESULTS,
) -> None:
    """Makes the folder, collapses it, and compares.

    Args:
      preset: of a Llama in lcjax.models.Decoder.
      depth: number of layers; 0 for all of the preset.
      kept: number of hidden units that stay in each.
      texts: number of texts to calibrate on, of random words.
      length: tokens of each.
      buffer: bytes, of the command's --buffer.
      directory: of folders; needs twice the size of one, 32 GB for all of Llama-3.1-8B.
      results_dir: directory of results.
    """
    config = llama(preset, depth)
    source, target = (directory.absolute() / f"{preset}-{name}" for name in ("deep", "compact"))
    if not source.exists():
        measured(MAKE, preset, str(depth), str(source), str(texts), str(length))
    shutil.rmtree(target, ignore_errors=True)
    forget(source)
    removed = config.depth * 3 * config.width * (config.mlp_hidden - kept)
    sizes = json.loads((source / "model.safetensors.index.json").read_text())
    budget = sizes["metadata"]["total_size"] // 2 - removed
    options = ("--calibrate", str(source.with_name(TEXTS)), "--budget", f"params={budget}")
    command = ("collapse-model", str(source), str(target), *options, "--buffer", str(buffer))
    before = _of_children()
    _, wall, peak = measured(COMMAND, *command)
    times = [wall, _of_children() - before]
    report = json.loads((target / "lcjax_report.json").read_text())
    widths = {layer["width"] for layer in report["layers"]}
    if widths != {kept}:
        sys.exit(f"error: got {widths} units, expected {kept}; give a multiple of 128 as --kept.")
    tokens, losses = texts * length, report["loss"]["tokens"]
    arguments = (str(source), str(target), preset, str(kept), str(tokens), str(losses))
    printed, _, _ = measured(ALONE, *arguments)
    parts = np.array(printed.split(), float).reshape(-1, 2)
    ratios = times / parts.sum(0)
    layer = sum(out * inside for out, inside in matrices(config).values())
    results = {
        "parameters": report["before"]["parameters"],
        "bytes_in": report["before"]["bytes"],
        "bytes_out": report["after"]["bytes"],
        "layer_parameters": layer,
        "buffer": buffer,
        "peak_bytes": peak,
        "seconds": _by_clock({"command": times, **dict(zip(PARTS, parts.tolist(), strict=True))}),
        "ratio": _by_clock({"all": ratios.tolist(), "without solving": _without(times, parts)}),
        "layers_next_to_buffer": {
            name: (peak - buffer) / (size * layer) for name, size in (("bf16", 2), ("float32", 4))
        },
    }
    rows = [
        ("lcjax collapse-model", *_shown(times), f"{peak / 2**20:,.0f} MiB"),
        *((f"{name} alone", *_shown(own), "") for name, own in zip(PARTS, parts, strict=True)),
        ("lcjax collapse-model / sum", *(f"{ratio:.2f}" for ratio in ratios), ""),
        ("three layers, bfloat16, and the buffer", "", "", _mebibytes(6 * layer + buffer)),
        ("three layers, float32, and the buffer", "", "", _mebibytes(12 * layer + buffer)),
    ]
    title = f"{preset}, {config.depth} layers, {report['before']['bytes'] / 1e9:.1f} GB"
    settings = {"preset": preset, "depth": config.depth, "kept": kept, "texts": texts}
    settings |= {"length": length, "buffer": buffer}
    table = Table((title, "wall time", "processor time", "peak memory"), rows)
    publish("folder_collapse", settings, results, table, results_dir=results_dir)
    shutil.rmtree(target)
    shutil.rmtree(source)


def _by_clock(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {name: dict(zip(("wall", "processor"), own, strict=True)) for name, own in times.items()}


def _without(times: list[float], parts: np.ndarray) -> list[float]:
    """Returns the ratios where the sum has no factorizations."""
    return (times / parts[:-1].sum(0)).tolist()


def _shown(seconds: Any) -> list[str]:
    return [f"{each:.1f} s" for each in seconds]


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


if __name__ == "__main__":
    tyro.cli(main)
