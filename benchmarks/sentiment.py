"""MiniLM on SST-2: ways to three of six FFNs less, within one more epoch on 20,000 phrases.

`python -m benchmarks.sentiment`: resumes where it was stopped; the runs stay in runs/benchmark. The
deep network is fine-tuned for an epoch of all phrases. `--rest`: four and all six FFNs less, and
what else was asked of it, most with one seed, into a file of its own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro

from benchmarks.peers import PEERS
from benchmarks.record import RESULTS
from benchmarks.ways import Way, report

SIZE = 3  # FFNs less
OTHER_SIZES = (4, 6)
_PRESET = ("train.sentiment", "sst2-minilm")
_PLAIN = ("--protocol", "natural", "--strength", "0", "--slope-learning-rate", "0")
_SUBSET = ("--train-examples", "20000", "--longest")
_FROM = (*_PRESET, "--from", "{sentiment-deep}", *_SUBSET)
# Of three and of all six chosen on the validation split, with the second seed; of four between.
_RATES = {3: "3e-5", 4: "5e-5", 6: "1e-4"}


def ways() -> Iterator[Way]:
    """Yields the ways to SIZE FFNs less; those that others start from come first."""
    healed = f"{{sentiment-healed-{SIZE}}}"
    yield from _start()
    yield Way("least squares, no training", f"sentiment-least-squares-{SIZE}",
              _surgery("least_squares", SIZE, 0))  # fmt: skip
    yield Way("FFNs removed, healed alike", f"sentiment-removed-{SIZE}",
              ("benchmarks.removed", healed))  # fmt: skip
    for peer, method in PEERS.items():
        row = f"sentiment-{peer.replace('_', '-')}-{SIZE}"
        yield Way(f"{method}, healed alike", row, (f"benchmarks.{peer}", healed))
    late = (*_FROM, "--protocol", "natural", "--epochs", "1", "--learning-rate", _RATES[6])
    yield Way("lcjax: L1 from the deep one on", "sentiment-natural", late)
    # As many steps as the deep one's epoch and the healing together have.
    again = (*_PRESET, *_PLAIN, "--epochs", "1.3", "--collapsed-from", healed)
    yield Way("the compact topology, fused layers new", f"sentiment-scratch-{SIZE}", again)
    taught = (*again, "--teacher", "{sentiment-deep}", "--no-deep-teacher")
    yield Way("the same, distilled", f"sentiment-distilled-{SIZE}", taught)
    yield from _published("1", (SIZE,), repeated=True)


def other_ways() -> Iterator[Way]:
    """Yields other sizes and other ways; those that others start from come first."""
    yield from _start()
    twice = (*_PRESET, *_PLAIN, "--epochs", "2")
    yield Way("deep, two epochs", "sentiment-deep-twice", twice, False)
    more = (*_FROM, *_PLAIN, "--epochs", "1", "--learning-rate", _RATES[SIZE])
    yield Way("deep, trained on", "sentiment-more", more, False)
    for k in (SIZE, *OTHER_SIZES):
        fits = ("exact", "moments") if k == SIZE else ("exact", "moments", "least_squares")
        for fit in fits:
            row = f"sentiment-{fit.replace('_', '-')}-{k}"
            yield Way(f"{fit.replace('_', ' ')}, no training", row, _surgery(fit, k, 0), False)
        alone = (*_surgery("least_squares", k, 1), "--no-deep-teacher")
        yield Way("lcjax: healed without a teacher", f"sentiment-alone-{k}", alone, False)
    for k in OTHER_SIZES:
        yield _healed(k, repeated=k == 4)
        removed = ("benchmarks.removed", f"{{sentiment-healed-{k}}}")
        yield Way("FFNs removed, healed alike", f"sentiment-removed-{k}", removed, False)
    yield from _published("1", OTHER_SIZES, repeated=False)
    yield from _published("10", (SIZE, *OTHER_SIZES), repeated=False)


def _start() -> Iterator[Way]:
    """Yields the deep network, and what its peers are healed like."""
    yield Way("deep", "sentiment-deep", (*_PRESET, *_PLAIN))
    yield _healed(SIZE)


def _healed(k: int, *, repeated: bool = True) -> Way:
    method = "lcjax: least squares, healed, the deep one teaching"
    return Way(method, f"sentiment-healed-{k}", _surgery("least_squares", k, 1), repeated)


def _surgery(fit: str, count: int, heal_epochs: int) -> tuple[str, ...]:
    asked = ("--fit", fit, "--count", str(count), "--heal-epochs", str(heal_epochs))
    return (*_FROM, *asked, "--heal-learning-rate", _RATES[count])


def _published(strength: str, sizes: Sequence[int], *, repeated: bool) -> Iterator[Way]:
    """Yields the published method: what it comes to, and its sites fused whatever their slopes."""
    row = f"sentiment-published-{strength}"
    reference = ("--protocol", "reference", "--strength", strength, "--epochs", "1")
    method = f"published, λ = {strength}"
    yield Way(f"{method}, its threshold", row, (*_FROM, *reference), repeated)
    for k in sizes:
        fused = (*_PRESET, "--from", f"{{{row}}}", *_SUBSET, "--fit", "exact")
        asked = (*fused, "--count", str(k), "--heal-epochs", "0", "--activation", "relu")
        yield Way(method, f"{row}-exact-{k}", asked, repeated)


def main(
    rest: bool = False,
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet; prints a table, writes a JSON.

    Args:
      rest: other sizes and other ways, most with the first seed alone.
      seeds: of the runs.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    name, chosen = ("sentiment-rest", other_ways()) if rest else ("sentiment", ways())
    report(name, chosen, seeds=seeds, runs_dir=runs_dir, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
