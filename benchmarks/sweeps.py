"""How far the claim holds: one setting after another of the Fashion-MNIST MLP, all else as it is.

`python -m benchmarks.sweeps`: resumes where it was stopped; the runs stay in runs/benchmark. The
first five sweeps choose what is default; the others change the network. Gated MLPs are those of a
ViT, which has a sweep of activations too.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from benchmarks.record import RESULTS, Table, publish
from benchmarks.sweep_picture import draw
from benchmarks.training_runs import Rows, command, mean_and_deviation, measured, parameters

_MLP = ("fashion-mlp",)
_DEEP = (*_MLP, "--strength", "0", "--slope-learning-rate", "0")
_SURGERY = (*_MLP, "--protocol", "fit-heal", "--from", "{sweep-deep}", "--heal-epochs", "0")
_VIT = (
    *("fashion-vit", "--patch-size", "7", "--depth", "2", "--width", "48", "--num-heads", "3"),
    *("--epochs", "3"),
)
_REFERENCE = (*_MLP, "--protocol", "reference", "--strength", "10")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A setting and the values it takes.

    Attributes:
      about: what changes, in words.
      settings: arguments of train.image by the value's name, in order.
      default: the value that the code takes.
    """

    about: str
    settings: Mapping[str, tuple[str, ...]]
    default: str | None = None


def _varied(
    base: tuple[str, ...], flag: str, values: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    return {value: (*base, flag, value) for value in values}


SWEEPS = {
    "strength": Sweep(
        "strength of the L1 penalty: the loss that a site may cost",
        _varied(_MLP, "--strength", ("0.001", "0.003", "0.01", "0.03", "0.1", "0.3")),
    ),
    "threshold": Sweep(
        "largest gap at which a site goes, under L1",
        _varied(_MLP, "--threshold", ("0", "0.01", "0.05", "0.2", "0.5", "1")),
        "0.05",
    ),
    "threshold-l2": Sweep(
        "largest gap at which a site goes, under the published L2 method, λ = 10",
        _varied(_REFERENCE, "--threshold", ("0.01", "0.05", "0.2", "0.5", "1")),
        "0.05",
    ),
    "calibration": Sweep(
        "training images to which two sites are fitted by least squares, no training after",
        _varied((*_SURGERY, "--count", "2"), "--calibration-images",
                ("256", "512", "1024", "2048", "4096", "8192", "16384")),
        "4096",
    ),
    "sites": Sweep(
        "which one of the three sites goes, by least squares, no training after",
        {
            **{
                f"act_{i}": (*_SURGERY, "--count", "1", "--where", f"*act_{i}") for i in range(3)
            },
            "cheapest": (*_SURGERY, "--count", "1"),
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
            "SwiGLU": (*_VIT, "--mlp-hidden", "128", "--gated", "--activation", "silu"),
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


def rows() -> Rows:
    """Returns the rows of all sweeps, the deep network that some start from first."""
    found: dict[str, tuple[str, ...]] = {"sweep-deep": _DEEP}
    for name, sweep in SWEEPS.items():
        found |= {_row(name, value): asked for value, asked in sweep.settings.items()}
    return found


def points(name: str, seeds: tuple[int, ...], runs_dir: Path) -> list[dict[str, Any]]:
    """Returns what every value of a sweep comes to, one number a seed; JSON."""
    every, settings = rows(), SWEEPS[name].settings
    found = measured(every, [_row(name, value) for value in settings], seeds=seeds,
                     runs_dir=runs_dir)  # fmt: skip
    return [
        {
            "value": value,
            "command": command(asked),
            "parameters": [parameters(each) for each in found[_row(name, value)]],
            "deep_parameters": [each["deep"]["parameters"] for each in found[_row(name, value)]],
            "collapsed": [each["collapsed"] for each in found[_row(name, value)]],
            "validation": [
                each["compact"]["validation"]["accuracy"] for each in found[_row(name, value)]
            ],
            "deep_accuracy": [
                each["deep"]["test"]["accuracy"] for each in found[_row(name, value)]
            ],
            "accuracy": [each["compact"]["test"]["accuracy"] for each in found[_row(name, value)]],
        }
        for value, asked in settings.items()
    ]


def main(
    sweeps: tuple[str, ...] = tuple(SWEEPS),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet; prints a table a sweep, writes a JSON and a picture a sweep.

    Args:
      sweeps: which of them.
      seeds: of the runs.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    results, tables = {}, []
    for name in sweeps:
        sweep, results[name] = SWEEPS[name], points(name, seeds, runs_dir)
        headers = (name, "deep, %", "compact, %", "parameters", "sites gone")
        tables.append(Table(headers, [_cells(each) for each in results[name]], sweep.about))
        path = results_dir / f"sweep-{name}.png"
        results_dir.mkdir(parents=True, exist_ok=True)
        print(draw(results[name], path, about=sweep.about, default=sweep.default))
    publish("sweeps", {"seeds": list(seeds)}, results, *tables, results_dir=results_dir)


def _row(name: str, value: str) -> str:
    return f"sweep-{name}-{value}"


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    sizes = sorted(set(found["parameters"]))
    counts = sorted({len(each) for each in found["collapsed"]})
    accuracies = ([100 * each for each in found[key]] for key in ("deep_accuracy", "accuracy"))
    return (
        found["value"],
        *(mean_and_deviation(each) for each in accuracies),
        f"{found['deep_parameters'][0]:,} → {' / '.join(f'{size:,}' for size in sizes)}",
        " / ".join(map(str, counts)),
    )


if __name__ == "__main__":
    tyro.cli(main)
