"""Images a second that the reader of a folder of JPEGs yields, and what a training step takes.

`python -m benchmarks input_reader`: writes a few hundred JPEGs of ImageNet's usual size, 500 × 375
pixels, and reads them as `train.image --dataset folder:PATH` does: random crops of 224 × 224,
shuffled, in batches, with several numbers of threads; then on to the device as well. The step is
one of ViT-Ti/16 on the device present. Processor time for an image depends less on other load than
images a second do; from it follows how many cores keep a step fed.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image

from benchmarks.accelerator.models import Model
from benchmarks.accelerator.peaks import PEAKS
from benchmarks.accelerator.programs import TrainingStep
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.networks import Network, vit
from train.data.images import stream
from train.data.images.dataset import load
from train.runtime.memory import keep_freed_memory

_SIZE = 500, 375
SHARE = 0.5  # of an H100's peak, that a step of ViT-B/16 may reach


def write_pictures(folder: Path, count: int) -> float:
    """Writes JPEGs of two classes, with the detail of photographs; returns their mean kilobytes."""
    rng = np.random.default_rng(0)
    sizes = []
    for number in range(count):
        width, height = _SIZE if number % 3 else reversed(_SIZE)
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (height, width, 1))
        pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        path = folder / f"class_{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
        sizes.append(path.stat().st_size / 1e3)
    return float(np.mean(sizes))


def rate(batches: Iterator[Any], batch_size: int, seconds: float) -> dict[str, float]:
    """Returns images a second, and milliseconds of processor time an image, after two batches."""
    for _ in range(2):
        next(batches)
    start, used, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        jax.block_until_ready(next(batches))
        count += batch_size
    return {
        "images_per_second": count / (time.perf_counter() - start),
        "processor_ms": 1e3 * (time.process_time() - used) / count,
    }


def read_rates(folder: Path, batch_size: int, threads: tuple[int, ...], seconds: float) -> Any:
    """Returns the rates of the reader: in host memory by threads, then on the device."""
    split = load(f"folder:{folder}", in_memory=False).train

    def read(count: int, batches: Callable[[], Iterator[Any]]) -> dict[str, float]:
        with patch.object(stream, "THREADS", count):
            return rate(batches(), batch_size, seconds)

    found = {
        f"reader, {count} threads": read(count, lambda: stream.stream(split, batch_size, seed=0))
        for count in threads
    }
    source = stream.streamed(split, batch_size, seed=0)
    on_device = read(stream.THREADS, lambda: source.inputs(0))
    return found | {f"reader to the device, {stream.THREADS} threads": on_device}


def step_rate(network: Network, seconds: float) -> dict[str, float]:
    """Returns the images a second that a training step takes, if they are there."""
    call = network.step().call
    return rate(iter(call, None), network.batch_size, seconds)


def promised_rate(network: Network) -> float:
    """Returns the images a second of a step at half of an H100's peak, from its FLOPs."""
    step = TrainingStep(Model(network))
    shapes = network.abstract("deep")
    flops = step.demand(step.lower("deep", shapes), shapes) / network.batch_size
    return SHARE * PEAKS["NVIDIA H100 80GB HBM3"].flops / flops


def main(
    pictures: int = 300,
    batch_size: int = 32,
    threads: tuple[int, ...] = (1, 2, 16),
    seconds: float = 10.0,
    results_dir: Path = RESULTS,
) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      pictures: to write and read.
      batch_size: of the reader and the step.
      threads: of the reader.
      seconds: of each measurement.
      results_dir: directory of results.
    """
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        kilobytes = write_pictures(Path(name), pictures)
        rates = read_rates(Path(name), batch_size, threads, seconds)
    per_image = statistics.median(each["processor_ms"] for each in rates.values())
    big = vit("B/16", batch_size=128, dtype=jnp.bfloat16)
    needs = {
        f"step of ViT-Ti/16 on {jax.devices()[0].device_kind}": step_rate(
            vit("Ti/16", batch_size=batch_size), seconds
        ),
        f"step of ViT-B/16 at {SHARE:.0%} of an H100's peak (computed)": {
            "images_per_second": promised_rate(big)
        },
    }
    rows = [{"what": what, **found} for what, found in rates.items()]
    rows += [
        {"what": what, **found, "cores": found["images_per_second"] * per_image / 1e3}
        for what, found in needs.items()
    ]
    config = {"pictures": pictures, "kilobytes": round(kilobytes), "batch_size": batch_size}
    config |= {"seconds": seconds, "processes that ran": round(os.getloadavg()[0], 1)}
    publish("input_reader", config, rows, tabulate(_COLUMNS, rows), results_dir=results_dir)


_COLUMNS = (
    Column("", "what"),
    Column("images a second", "images_per_second", "{:,.1f}"),
    Column("processor time an image", lambda row: row.get("processor_ms"), "{:,.2f} ms"),
    Column("cores of the reader that it needs", lambda row: row.get("cores"), "{:.2f}"),
)


if __name__ == "__main__":
    tyro.cli(main)
