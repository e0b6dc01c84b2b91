"""The penalty as a regulariser, compared with weight decay and dropout: a grid search.

The decoder trains on a tenth of the text and overfits. The first seed tries every regulariser's
strengths for 15 epochs, then other lengths at the strength with the lowest validation loss; the
best setting of each runs with all seeds.
"""

import dataclasses
from pathlib import Path

from benchmarks.deep_runs import PENALTY, PLAIN_PENALTY
from benchmarks.harness.training_runs import Run, Summary, run_all
from benchmarks.quality.language_runs import SMALL

_TENTH = (*SMALL, "--train-tokens", "100000", "--stride", "128")
LENGTH, OTHER_LENGTHS = 15, (8, 30)
DECAYS = (0.1, 1.0, 3.0)
DROPOUTS = (0.1, 0.2, 0.4)
STRENGTHS = (0.003, 0.01, 0.03)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A regulariser at its best settings.

    Attributes:
      title: of the method.
      run: at the best settings.
      found: summaries of the run, one per seed.
      tried: validation loss of the first seed, by the name of the run.
    """

    title: str
    run: Run
    found: list[Summary]
    tried: dict[str, float]


def regularised(
    *, epochs: int, decay: float = 0.0, dropout: float = 0.0, strength: float = 0.0
) -> Run:
    """Returns a run on a tenth of the text."""
    name = f"language-tenth-{epochs}-{decay:g}-{dropout:g}-{strength:g}"
    penalty = (*PENALTY, "--strength", f"{strength:g}") if strength else PLAIN_PENALTY
    own = ("--epochs", f"{epochs}", "--weight-decay", f"{decay:g}", "--dropout", f"{dropout:g}")
    return Run(name, (*_TENTH, *own, *penalty))


def tune_regularisers(seeds: tuple[int, ...], runs_dir: Path) -> list[Tuned]:
    """Returns every regulariser at its best settings, with all seeds."""
    best: dict[str, dict[str, float]] = {}

    def tune(title: str, settings: list[dict[str, float]]) -> Tuned:
        tried: dict[str, Run] = {}
        losses: dict[str, float] = {}

        def attempt(setting: dict[str, float], epochs: int) -> float:
            run = regularised(epochs=epochs, **setting)
            tried[run.name] = run
            found = run_all([run], [run.name], seeds=seeds[:1], runs_dir=runs_dir)[run.name]
            losses[run.name] = found[0]["compact"]["validation"]["loss"]
            return losses[run.name]

        best[title] = min(settings, key=lambda setting: attempt(setting, LENGTH))
        for epochs in OTHER_LENGTHS:
            attempt(best[title], epochs)
        run = tried[min(losses, key=lambda name: losses[name])]
        found = run_all([run], [run.name], seeds=seeds, runs_dir=runs_dir)[run.name]
        return Tuned(title, run, found, losses)

    tuned = [
        tune("plain", [{}]),
        tune("weight decay", [{"decay": each} for each in DECAYS]),
        tune("dropout", [{"dropout": each} for each in DROPOUTS]),
        tune("LayerCollapse", [{"strength": each} for each in STRENGTHS]),
    ]
    both = [best["dropout"] | {"strength": each} for each in STRENGTHS]
    return [*tuned, tune("LayerCollapse + dropout", both)]
