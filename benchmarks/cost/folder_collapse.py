"""Collapse of a model folder: peak memory, and time compared with its lower bound.

`python -m benchmarks folder_collapse --preset Llama-3.1-8B --depth 4`: a folder of a Llama with
random bfloat16 weights goes through `lcjax collapse-model` in a process of its own. For comparison
another process reads all weights once, writes those of the compact folder once, and takes the
matrix products and the float64 factorizations of the collapse with one layer's shapes. Files are
dropped from the cache of the operating system before each of the two. Processor time is that of
all cores; on a machine with other work it says more than wall time.
"""

import collections
import dataclasses
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
from benchmarks.harness.publish import RESULTS, Table, publish
from lcjax.folder import FolderOptions
from lcjax.folder.storage.shard_writer import NewTensor, ShardWriter
from lcjax.models import DecoderConfig
from lcjax.models.decoder.presets import preset_config

_CALL = "import sys; from benchmarks.cost.folder_collapse import {0}; {0}(*sys.argv[1:])"
MAKE, ALONE = _CALL.format("make"), _CALL.format("alone")
PARTS = ("reading", "writing", "products", "solving")
_WORDS, _CHUNK, TEXTS = 1000, 2**26, "texts.txt"


def llama(preset: str, depth: int) -> DecoderConfig:
    """Returns the config of a published Llama with so many layers; 0 for all."""
    config = preset_config(preset)
    return dataclasses.replace(config, depth=depth or config.depth)


def matrices(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """Returns the shapes of a layer's matrices by the names of transformers, (out, in)."""
    width, head = config.width, config.head_width
    queries, keys = config.num_heads * head, config.num_kv_heads * head
    return {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (config.mlp_hidden, width),
        "mlp.up_proj": (config.mlp_hidden, width),
        "mlp.down_proj": (width, config.mlp_hidden),
    }


def make(preset: str, depth: str, path: str, texts: str, length: str) -> None:
    """Writes the folder, a file for each layer, and the texts to calibrate on."""
    config, folder = llama(preset, int(depth)), Path(path)
    folder.mkdir(parents=True)
    norm, table = (config.width,), (config.vocab_size, config.width)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table}
    files = {"model.embed_tokens.weight": 0, "model.norm.weight": 0}
    shapes |= {"model.norm.weight": norm}
    if not config.tied_head:
        shapes["lm_head.weight"], files["lm_head.weight"] = table, 0
    norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), norm)
    for i in range(config.depth):
        own = {f"model.layers.{i}.{name}.weight" for name in (*matrices(config), *norms)}
        files |= dict.fromkeys(sorted(own), i + 1)
        for name, shape in {**matrices(config), **norms}.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    total = config.depth + 1
    named = {name: f"model-{i + 1:05d}-of-{total:05d}.safetensors" for name, i in files.items()}
    tensors = {name: NewTensor.of(named[name], "BF16", shapes[name]) for name in named}
    writer = ShardWriter(folder, tensors, dict.fromkeys(named.values(), {"format": "pt"}))
    writer.create()
    random = np.random.default_rng(0)
    for name, tensor in tensors.items():
        writer.write_bytes(name, _random_bytes(random, name, tensor))
    _write_rest(folder, config, named, sum(tensor.bytes for tensor in tensors.values()))
    rows = random.integers(0, _WORDS, (int(texts), int(length)))
    lines = [" ".join(f"w{word}" for word in row) for row in rows]
    folder.with_name(TEXTS).write_text("\n".join(lines))


def _random_bytes(random: np.random.Generator, name: str, tensor: NewTensor):
    """Yields the values of a tensor in pieces: norms of 1, others normal by their inputs."""
    left = tensor.bytes // 2
    scale = np.float32(1 if "embed" in name else tensor.shape[-1] ** -0.5)
    while left:
        count = min(left, _CHUNK // 4)
        values = np.ones(count, np.float32)
        if "norm" not in name:
            values = scale * random.standard_normal(count, np.float32)
        yield values.astype(jnp.bfloat16).view(np.uint8).data
        left -= count


def _write_rest(folder: Path, config: DecoderConfig, named: dict[str, str], size: int) -> None:
    described = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": config.width,
        "intermediate_size": config.mlp_hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "hidden_act": "silu",
        "rms_norm_eps": config.epsilon,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "bfloat16",
    }
    words = {f"w{i}": i for i in range(_WORDS)}
    tokenizer = {
        "version": "1.0",
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    index = {"metadata": {"total_size": size}, "weight_map": named}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


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
    depth: int = 4,
    kept: int = 9216,
    texts: int = 16,
    length: int = 64,
    buffer: int = FolderOptions.buffer,
    directory: Path = Path("runs/benchmark/folder"),
    keep: bool = False,
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
      directory: of folders; needs twice the size of one.
      keep: whether to keep the folder for another run.
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
    if not keep:
        shutil.rmtree(directory)


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
