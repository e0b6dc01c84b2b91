"""Sweeps: one setting of the Fashion-MNIST MLP at a time, everything else unchanged.

`python -m benchmarks sweeps`: resumes an interrupted benchmark; runs are kept. The first five
sweeps justify the defaults, the others change the network. A small ViT has a sweep of activations
too, with gated MLPs.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from benchmarks.deep_runs import FASHION_MLP_DEEP
from benchmarks.harness.methods import accuracy, site_counts, sizes
from benchmarks.harness.plots import plot_sweep
from benchmarks.harness.publish import RESULTS, Column, publish, tabulate
from benchmarks.harness.training_runs import (
    Arguments,
    Run,
    RunDirectory,
    named,
    parameters,
    run_all,
)

_MLP = ("train.image", "fashion-mlp")
_SURGERY = (
    *(*_MLP, "--protocol", "fit-heal", "--from", RunDirectory(FASHION_MLP_DEEP.name)),
    *("--heal-epochs", "0"),
)
_VIT = (
    *("train.image", "fashion-vit", "--patch-size", "7", "--depth", "2", "--width", "48"),
    *("--num-heads", "3", "--epochs", "3"),
)
_ONE_SITE = (*_SURGERY, "--count", "1")
_PUBLISHED = (*_MLP, "--protocol", "paper", "--strength", "10")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A setting and the values it takes.

    Attributes:
      label: description of the setting.
      settings: arguments of the run by the value's name, in order.
      default: the value that is the default.
    """

    label: str
    settings: Mapping[str, Arguments]
    default: str | None = None


def _varied(base: Arguments, flag: str, values: tuple[str, ...]) -> dict[str, Arguments]:
    return {value: (*base, flag, value) for value in values}


SWEEPS = {
    "strength": Sweep(
        "strength of the L1 penalty: the increase in loss accepted per site",
        _varied(_MLP, "--strength", ("0.001", "0.003", "0.01", "0.03", "0.1", "0.3")),
    ),
    "max-gap": Sweep(
        "largest gap at which a site collapses, under L1",
        _varied(_MLP, "--max-gap", ("0", "0.01", "0.05", "0.2", "0.5", "1")),
        "0.05",
    ),
    "max-gap-l2": Sweep(
        "largest gap at which a site collapses, under the published L2 method, λ = 10",
        _varied(_PUBLISHED, "--max-gap", ("0.01", "0.05", "0.2", "0.5", "1")),
        "0.05",
    ),
    "calibration": Sweep(
        "training images for the least-squares fit of two sites, no training afterwards",
        _varied((*_SURGERY, "--count", "2"), "--calibration-images",
                ("256", "512", "1024", "2048", "4096", "8192", "16384")),
        "4096",
    ),
    "sites": Sweep(
        "which of the three sites collapses, by least squares, no training afterwards",
        {
            **{
                f"act_{i}": (*_ONE_SITE, "--where", f"*act_{i}") for i in range(3)
            },
            "cheapest": _ONE_SITE,
        },
        "cheapest",
    ),
    "activation": Sweep(
        "activation of the MLP",
        _varied(_MLP, "--activation", ("relu", "gelu", "silu", "tanh")),
        "relu",
    ),
    "activation-vit": Sweep(
        "activation of a small ViT; SwiGLU with two thirds of the hidden width",
        {
            **_varied((*_VIT, "--mlp-hidden", "192"), "--activation", ("relu", "gelu", "silu")),
            "SwiGLU": (*_VIT, "--mlp-hidden", "128", "--glu", "--activation", "silu"),
        },
        "gelu",
    ),
    "width": Sweep(
        "width of the three hidden layers",
        {
            width: (*_MLP, "--hidden", width, width, width)
            for width in ("64", "128", "256", "512", "1024")
        },
        "512",
    ),
    "depth": Sweep(
        "number of hidden layers of 512",
        {str(depth): (*_MLP, "--hidden", *["512"] * depth) for depth in (1, 2, 3, 4, 6)},
        "3",
    ),
}  # fmt: skip


def runs() -> dict[str, Run]:
    """Returns the runs of all sweeps by name, the deep network first."""
    rows: dict[str, Arguments] = {FASHION_MLP_DEEP.name: FASHION_MLP_DEEP.arguments}
    for name, sweep in SWEEPS.items():
        rows |= {_run_name(name, value): each for value, each in sweep.settings.items()}
    return {run.name: run for run in named(rows)}


def points(name: str, seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns the results of every value of a sweep, one number per seed; JSON."""
    known = runs()
    names = {value: _run_name(name, value) for value in SWEEPS[name].settings}
    found = run_all(known.values(), list(names.values()), seeds=seeds, runs_dir=runs_dir)
    return [
        {
            "value": value,
            "command": known[run].command,
            "parameters": [parameters(each) for each in found[run]],
            "deep_parameters": [each["deep"]["parameters"] for each in found[run]],
            "collapsed": [each["collapsed"] for each in found[run]],
            "validation": [each["compact"]["validation"]["accuracy"] for each in found[run]],
            "deep_accuracy": [each["deep"]["test"]["accuracy"] for each in found[run]],
            "accuracy": [each["compact"]["test"]["accuracy"] for each in found[run]],
        }
        for value, run in names.items()
    ]


def main(
    sweeps: tuple[str, ...] = tuple(SWEEPS),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints a table and writes a plot per sweep, and a JSON.

    Args:
      sweeps: names of sweeps.
      seeds: of the runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.
    """
    results, tables = {}, []
    for name in sweeps:
        sweep, results[name] = SWEEPS[name], points(name, seeds, runs_dir)
        columns = (Column(name, "value"), *_COLUMNS)
        tables.append(tabulate(columns, results[name], sweep.label))
        path = results_dir / f"sweep-{name}.png"
        results_dir.mkdir(parents=True, exist_ok=True)
        print(plot_sweep(results[name], path, label=sweep.label, default=sweep.default))
    publish("sweeps", {"seeds": list(seeds)}, results, *tables, results_dir=results_dir)


_COLUMNS = (
    Column("deep, %", accuracy("deep_accuracy")),
    Column("compact, %", accuracy("accuracy")),
    Column("parameters", lambda point: f"{point['deep_parameters'][0]:,} → {sizes(point)}"),
    Column("collapsed sites", site_counts),
)


def _run_name(name: str, value: str) -> str:
    """Returns the name of a run; sweeps whose settings meet share it."""
    own = SWEEPS[name].settings[value]
    return next(
        f"sweep-{each}-{other}"
        for each, sweep in SWEEPS.items()
        for other, settings in sweep.settings.items()
        if settings == own
    )


if __name__ == "__main__":
    tyro.cli(main)
