"""What compact networks and their peers cost: parameters, FLOPs and time against the deep one's.

`python -m benchmarks.peer_costs`: the networks of `benchmarks.quality`, as many sites collapsed as
there, and two of published sizes with half of theirs; weights at random, as costs do not depend on
them. Peers run in the shapes that they stand for (`benchmarks.peer_forms`). All forms of a network
take turns; ratios are of medians in one run.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks import peer_forms
from benchmarks.front import MIXER
from benchmarks.interleave import interleaved, ratio
from benchmarks.networks import NETWORKS
from benchmarks.record import RESULTS, Table, publish
from lcjax.models import Bert, MLPMixer, ViT
from lcjax.tree.slopes import select_sites
from train.runs.command import FLAGS
from train.runs.comparison import count_parameters
from train.runs.latency import compile_forward, flops
from train.runtime.memory import keep_freed_memory
from train.tasks.image.presets import PRESETS as IMAGES
from train.tasks.language.presets import PRESETS as LANGUAGE

_CHARACTERS = 65  # of tiny_shakespeare
_HEADERS = (
    *("network", "form", "parameters", "batch", "FLOPs / deep", "time / deep", "quartiles"),
    *("speed-up / promised", "time / deep, batch 1", "speed-up / promised, batch 1"),
)
Form = Callable[[Any, tuple[str, ...]], Any]
FORMS: dict[str, Form] = {
    "deep": lambda deep, _: deep,
    "lcjax": lambda deep, sites: lcjax.collapse(deep, sites, threshold=float("inf"))[0],
    "hidden units pruned": peer_forms.without_units,
    "low rank": peer_forms.in_factors,
    "MLPs removed": peer_forms.without_mlps,
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, and what is collapsed of it.

    Attributes:
      module: maps inputs to logits.
      inputs: one.
      batch: of inputs that fills the machine.
      count: of sites, the last ones, that are collapsed.
      where: a glob over the sites of which these are the last; None for all.
    """

    module: nn.Module
    inputs: jax.Array
    batch: int
    count: int
    where: str | None = None

    def forms(self) -> dict[str, Any]:
        """Returns the variables of each form; one chain is not removed, as nothing goes past it."""
        deep = jax.jit(self.module.init)(jax.random.key(0), self.inputs)
        sites = tuple(select_sites(deep["params"], last=self.count, where=self.where))
        alone = len({site.rpartition("/")[0] for site in lcjax.find_sites(deep).paths}) == 1
        forms = {name: form for name, form in FORMS.items() if not (alone and "removed" in name)}
        return {name: form(deep, sites) for name, form in forms.items()}


def _images(arguments: tuple[str, ...], size: tuple[int, ...], batch: int = 128) -> Subject:
    """Returns the network that `python -m train.image ARGUMENTS` trains, two sites collapsed."""
    preset, *flags = arguments
    config = tyro.cli(type(IMAGES[preset][1]), default=IMAGES[preset][1], args=flags, config=FLAGS)
    module = config.model.build(10)
    return Subject(module, jnp.ones((1, *size)), batch, 2, config.penalty.where)


def _published(module: Any, preset: str, count: int, where: str | None = None) -> Subject:
    """Returns a network of a published size, for images of 224 × 224 pixels in 1,000 classes."""
    images = jnp.ones((1, 224, 224, 3))
    return Subject(module.from_preset(preset, num_classes=1000), images, 8, count, where)


def _decoder() -> Subject:
    config = LANGUAGE["shakespeare-small"][1]
    windows = jnp.zeros((1, config.model.context), jnp.int32)
    return Subject(config.model.build(_CHARACTERS), windows, config.data.batch_size, 2)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "Fashion-MNIST MLP": lambda: _images(("fashion-mlp",), (28, 28, 1), 256),
    "Fashion-MNIST Mixer": lambda: _images(NETWORKS["fashion-mixer"], (28, 28, 1)),
    "CIFAR-10 ViT": lambda: _images(NETWORKS["cifar10-vit"], (32, 32, 3)),
    "CIFAR-10 Mixer": lambda: _images(MIXER, (32, 32, 3)),
    "SST-2 MiniLM": lambda: Subject(
        Bert.from_preset("MiniLM-L6", num_classes=2), jnp.ones((1, 32), jnp.int32), 32, 3
    ),
    "tiny_shakespeare GPT": _decoder,
    "ViT-S/16": lambda: _published(ViT, "S/16", 6),
    "Mixer-S/16": lambda: _published(MLPMixer, "S/16", 4, "*channels*"),
}


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Returns what every form of a network costs, and the ratios to the deep one."""
    subject = SUBJECTS[name]()
    forms, found = subject.forms(), {}
    for batch in (subject.batch, 1):
        inputs = jnp.repeat(subject.inputs, batch, axis=0)
        with peer_forms.running():
            compiled = {
                form: compile_forward(subject.module.apply, variables, inputs)
                for form, variables in forms.items()
            }
        calls = {
            form: lambda form=form, inputs=inputs, compiled=compiled: compiled[form](
                forms[form], inputs
            )
            for form in forms
        }
        seconds = interleaved(calls, rounds=rounds)
        for form in forms:
            row = found.setdefault(form, {"network": name, "form": form, "batches": {}})
            row["parameters"] = count_parameters(forms[form])
            row["batches"][str(batch)] = {
                "flops": flops(compiled[form]),
                "flops_ratio": flops(compiled[form]) / flops(compiled["deep"]),
                "milliseconds": 1e3 * statistics.median(seconds[form]),
                "time_ratio": ratio(seconds[form], seconds["deep"]),
            }
    return list(found.values())


def main(
    networks: tuple[str, ...] = tuple(SUBJECTS), rounds: int = 40, results_dir: Path = RESULTS
) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      networks: which of them.
      rounds: timed calls of each form.
      results_dir: where results are written.
    """
    unknown = sorted(set(networks) - SUBJECTS.keys())
    if unknown:
        sys.exit(f"error: no such network: {', '.join(unknown)}; there are {', '.join(SUBJECTS)}.")
    keep_freed_memory()
    found = [row for name in networks for row in measure(name, rounds)]
    table = Table(_HEADERS, [_cells(each) for each in found])
    config = {"rounds": rounds, "dtype": "float32"}
    publish("peer_costs", config, found, table, results_dir=results_dir)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    (batch, full), (_, single) = found["batches"].items()
    taken, alone = (each["time_ratio"]["of_medians"] for each in (full, single))
    return (
        found["network"],
        found["form"],
        f"{found['parameters']:,}",
        batch,
        f"{full['flops_ratio']:.3f}",
        f"{taken:.3f}",
        f"{full['time_ratio']['lower_quartile']:.3f} to {full['time_ratio']['upper_quartile']:.3f}",
        f"{full['flops_ratio'] / taken:.2f}",
        f"{alone:.3f}",
        f"{single['flops_ratio'] / alone:.2f}",
    )


if __name__ == "__main__":
    tyro.cli(main)
