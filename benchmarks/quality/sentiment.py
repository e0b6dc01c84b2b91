"""MiniLM on SST-2: methods that collapse three of six FFNs, in one more epoch on 20,000 phrases.

`python -m benchmarks sentiment`: resumes an interrupted benchmark; runs are kept. The deep network
is fine-tuned for one epoch on all phrases. `--rest` collapses four and all six FFNs and runs other
methods, most with one seed, into another result file. `--plan` heals a plan with as many parameters
as six collapsed FFNs, and the baseline that is best at that size in `forms`, for an epoch on 20,000
phrases; and a plan with fewer parameters for an epoch on all phrases.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro

from benchmarks.baselines.base import BASELINES, DROP
from benchmarks.deep_runs import PENALTY, PLAIN_PENALTY, SENTIMENT_DEEP
from benchmarks.harness.methods import Method, report
from benchmarks.harness.publish import RESULTS
from benchmarks.harness.training_runs import Arguments, RunDirectory

SIZE = 3  # collapsed FFNs
OTHER_SIZES = (4, 6)
_PRESET = ("train.sentiment", "sst2-minilm")
_SUBSET = ("--train-examples", "20000", "--longest")
_DEEP = RunDirectory(SENTIMENT_DEEP.name)
_FROM = (*_PRESET, "--from", _DEEP, *_SUBSET)
# Of six collapsed FFNs, and fewer.
_SAME_SIZE, _SMALLER = "16511618", "15900000"
# For three and six FFNs chosen on the validation split, with the second seed; for four in between.
_RATES = {3: "3e-5", 4: "5e-5", 6: "1e-4"}


def methods() -> Iterator[Method]:
    """Yields the methods that collapse SIZE FFNs; those that others start from come first."""
    healed = RunDirectory(f"sentiment-healed-{SIZE}")
    yield from _start()
    fitted = _surgery("least_squares", SIZE, 0)
    yield Method("least squares, no training", f"sentiment-least-squares-{SIZE}", fitted)
    yield Method("FFNs dropped, same healing", f"sentiment-removed-{SIZE}", (DROP, healed))
    for run, (module, title) in BASELINES.items():
        yield Method(f"{title}, same healing", f"sentiment-{run}-{SIZE}", (module, healed))
    late = (*_FROM, *PENALTY, "--epochs", "1", "--learning-rate", _RATES[6])
    yield Method("lcjax: L1 after fine-tuning", "sentiment-penalty", late)
    # As many steps as the epoch of the deep network and the healing have together.
    again = (*_PRESET, *PLAIN_PENALTY, "--epochs", "1.3", "--collapsed-from", healed)
    yield Method("compact topology, new fused layers", f"sentiment-scratch-{SIZE}", again)
    distilled = (*again, "--teacher", _DEEP)
    yield Method("the same, distilled", f"sentiment-distilled-{SIZE}", distilled)
    yield from _published("1", (SIZE,), every_seed=True)


def other_methods() -> Iterator[Method]:
    """Yields other sizes and methods; those that others start from come first."""
    yield from _start()
    twice = (*_PRESET, *PLAIN_PENALTY, "--epochs", "2")
    yield Method("deep, two epochs", "sentiment-deep-twice", twice, False)
    more = (*_FROM, *PLAIN_PENALTY, "--epochs", "1", "--learning-rate", _RATES[SIZE])
    yield Method("deep, training continued", "sentiment-more", more, False)
    for k in (SIZE, *OTHER_SIZES):
        fits = ("exact", "per_unit") if k == SIZE else ("exact", "per_unit", "least_squares")
        for fit in fits:
            run = f"sentiment-{fit.replace('_', '-')}-{k}"
            title = f"{fit.replace('_', ' ')}, no training"
            yield Method(title, run, _surgery(fit, k, 0), False)
        alone = (*_surgery("least_squares", k, 1), "--no-deep-teacher")
        yield Method("lcjax: healed without a teacher", f"sentiment-alone-{k}", alone, False)
    for k in OTHER_SIZES:
        yield _healed(k, every_seed=k == 4)
        dropped = (DROP, RunDirectory(f"sentiment-healed-{k}"))
        yield Method("FFNs dropped, same healing", f"sentiment-removed-{k}", dropped, False)
    yield from _published("1", OTHER_SIZES, every_seed=False)
    yield from _published("10", (SIZE, *OTHER_SIZES), every_seed=False)


def planned_methods() -> Iterator[Method]:
    """Yields the deep network, two plans, and a baseline of the larger plan's size.

    Those of the larger size heal at their rates in `forms`, the other at that of six FFNs.
    """
    yield SENTIMENT_DEEP
    weighted = ("--calibration-weighting", "influence")
    arguments = (*_FROM, *_planned(_SAME_SIZE, "3e-5"), *weighted)
    title = "lcjax: a plan, tokens weighted by influence, healed on 20,000 phrases"
    plan = Method(title, "sentiment-plan-weighted", arguments)
    yield plan
    wanda = ("benchmarks.baselines", "wanda", RunDirectory(plan.name))
    as_published = ("--calibration-weighting", "equal", "--heal-learning-rate", "1e-4")
    title = "units by Wanda's score, refit, healed on 20,000 phrases"
    yield Method(title, "sentiment-wanda", (*wanda, *as_published))
    arguments = (*_PRESET, "--from", _DEEP, *_planned(_SMALLER, _RATES[6]))
    title = "lcjax: a plan, healed on all phrases"
    yield Method(title, "sentiment-plan", arguments)


def _start() -> Iterator[Method]:
    """Yields the deep network and the healed one whose healing the baselines share."""
    yield SENTIMENT_DEEP
    yield _healed(SIZE)


def _healed(k: int, *, every_seed: bool = True) -> Method:
    title = "lcjax: least squares, healed, distilled from the deep model"
    arguments = _surgery("least_squares", k, 1)
    return Method(title, f"sentiment-healed-{k}", arguments, every_seed)


def _surgery(fit: str, count: int, heal_epochs: int) -> Arguments:
    fitted = ("--fit", fit, "--count", str(count), "--heal-epochs", str(heal_epochs))
    return (*_FROM, *fitted, "--heal-learning-rate", _RATES[count])


def _planned(parameters: str, rate: str) -> Arguments:
    """Returns the flags of a plan of at most so many parameters, healed for an epoch."""
    healed = ("--heal-epochs", "1", "--heal-learning-rate", rate)
    return ("--fit", "mix", "--target-params", parameters, *healed)


def _published(strength: str, sizes: Sequence[int], *, every_seed: bool) -> Iterator[Method]:
    """Yields the published method, at its threshold and with sites fused regardless of gap."""
    run = f"sentiment-published-{strength}"
    arguments = ("--protocol", "paper", "--strength", strength, "--epochs", "1")
    title = f"published, λ = {strength}"
    yield Method(f"{title}, its threshold", run, (*_FROM, *arguments), every_seed)
    for k in sizes:
        fused = (*_PRESET, "--from", RunDirectory(run), *_SUBSET, "--fit", "exact")
        arguments = (*fused, "--count", str(k), "--heal-epochs", "0", "--activation", "relu")
        yield Method(title, f"{run}-exact-{k}", arguments, every_seed)


def main(
    rest: bool = False,
    plan: bool = False,
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Trains what is not finished; prints a table and writes a JSON.

    Args:
      rest: other sizes and methods, most with the first seed only.
      plan: plans of as many parameters as six collapsed FFNs have and of fewer, and a baseline.
      seeds: of the runs.
      runs_dir: directory of the runs.
      results_dir: directory of results.

    Raises:
      SystemExit: for both of `rest` and `plan`; when a run fails (names its log).
    """
    if rest and plan:
        sys.exit("error: --rest and --plan are both set; expected one of them.")
    name, chosen = "sentiment", methods()
    if rest:
        name, chosen = "sentiment-rest", other_methods()
    elif plan:
        name, chosen = "sentiment-plan", planned_methods()
    report(name, chosen, seeds=seeds, runs_dir=runs_dir, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
