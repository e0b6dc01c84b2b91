"""The penalty as a regulariser, beside weight decay and dropout: the grid, and what is best of it.

A decoder that overfits, as it sees a tenth of the text. Every way to regularise is tried with the
first seed: first its strengths, all for 15 epochs, then other lengths at the strength that
validates best; the best of them all is run with all seeds.
"""

import dataclasses
from pathlib import Path

from benchmarks.language_rows import NATURAL, PLAIN, SMALL
from benchmarks.training_runs import Summary, measured

# The regulariser's grid.
_TENTH = (*SMALL, "--train-tokens", "100000", "--stride", "128")
LENGTH, OTHER_LENGTHS = 15, (8, 30)
DECAYS = (0.1, 1.0, 3.0)
DROPOUTS = (0.1, 0.2, 0.4)
STRENGTHS = (0.003, 0.01, 0.03)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A way to regularise at its best.

    Attributes:
      method: what it is called.
      arguments: of its runs.
      found: their summaries, one a seed.
      tried: validation loss of the first seed, by the name of the run.
    """

    method: str
    arguments: tuple[str, ...]
    found: list[Summary]
    tried: dict[str, float]


def regularised(
    *, epochs: int, decay: float = 0.0, dropout: float = 0.0, strength: float = 0.0
) -> tuple[str, tuple[str, ...]]:
    """Returns the name and the arguments of a run on a tenth of the text."""
    name = f"language-tenth-{epochs}-{decay:g}-{dropout:g}-{strength:g}"
    bent = (*NATURAL, "--strength", f"{strength:g}") if strength else PLAIN
    own = ("--epochs", f"{epochs}", "--weight-decay", f"{decay:g}", "--dropout", f"{dropout:g}")
    return name, (*_TENTH, *own, *bent)


def regulariser(seeds: tuple[int, ...], runs_dir: Path) -> list[Choice]:
    """Returns every way at its best settings, with all seeds."""
    best: dict[str, dict[str, float]] = {}

    def choose(method: str, settings: list[dict[str, float]]) -> Choice:
        tried: dict[str, tuple[str, ...]] = {}
        losses: dict[str, float] = {}

        def attempt(setting: dict[str, float], epochs: int) -> float:
            name, tried[name] = regularised(epochs=epochs, **setting)
            found = measured(tried, [name], seeds=seeds[:1], runs_dir=runs_dir)[name]
            losses[name] = found[0]["compact"]["validation"]["loss"]
            return losses[name]

        best[method] = min(settings, key=lambda setting: attempt(setting, LENGTH))
        for epochs in OTHER_LENGTHS:
            attempt(best[method], epochs)
        row = min(losses, key=lambda name: losses[name])
        whole = measured(tried, [row], seeds=seeds, runs_dir=runs_dir)[row]
        return Choice(method, tried[row], whole, losses)

    chosen = [
        choose("plain", [{}]),
        choose("weight decay", [{"decay": each} for each in DECAYS]),
        choose("dropout", [{"dropout": each} for each in DROPOUTS]),
        choose("LayerCollapse", [{"strength": each} for each in STRENGTHS]),
    ]
    both = [best["dropout"] | {"strength": each} for each in STRENGTHS]
    return [*chosen, choose("LayerCollapse + dropout", both)]
