"""MiniLM on SST-2: ways to a compact encoder, each within one more epoch on 20,000 phrases.

`python -m benchmarks.sentiment`: resumes where it was stopped; the runs stay in runs/benchmark. The
deep network is fine-tuned for an epoch of all phrases; then three, four or all six FFNs go.
"""

from collections.abc import Iterator
from pathlib import Path

import tyro

from benchmarks.peers import PEERS
from benchmarks.record import RESULTS
from benchmarks.ways import Way, report

REPEATED = (3, 4)  # headline sizes, run with every seed
STRENGTHS = ("1", "10")  # of the published penalty
_PRESET = ("train.sentiment", "sst2-minilm")
_PLAIN = ("--protocol", "natural", "--strength", "0", "--slope-learning-rate", "0")
_SUBSET = ("--train-examples", "20000", "--longest")
_FROM = (*_PRESET, "--from", "{sentiment-deep}", *_SUBSET)
# Of three and of all six chosen on the validation split, with the second seed; of four between.
_RATES = {3: "3e-5", 4: "5e-5", 6: "1e-4"}


def ways() -> Iterator[Way]:
    """Yields all ways; those that others start from come first."""
    yield Way("deep", "sentiment-deep", (*_PRESET, *_PLAIN))
    twice = (*_PRESET, *_PLAIN, "--epochs", "2")
    yield Way("deep, two epochs", "sentiment-deep-twice", twice, False)
    for k in (3, 4, 6):
        method, row = "lcjax: least squares, healed, the deep one teaching", f"sentiment-healed-{k}"
        yield Way(method, row, _surgery("least_squares", k, 1), k in REPEATED)
    for k in (3, 4, 6):
        for fit in ("exact", "moments", "least_squares"):
            row = f"sentiment-{fit.replace('_', '-')}-{k}"
            yield Way(f"{fit.replace('_', ' ')}, no training", row, _surgery(fit, k, 0), False)
        removed = ("benchmarks.removed", f"{{sentiment-healed-{k}}}")
        yield Way("FFNs removed, healed alike", f"sentiment-removed-{k}", removed, False)
        alone = (*_surgery("least_squares", k, 1), "--no-deep-teacher")
        yield Way("lcjax: the same without a teacher", f"sentiment-alone-{k}", alone, False)
    more = (*_FROM, *_PLAIN, "--epochs", "1", "--learning-rate", _RATES[3])
    yield Way("deep, trained on", "sentiment-more", more, False)
    late = (*_FROM, "--protocol", "natural", "--epochs", "1", "--learning-rate", _RATES[6])
    yield Way("lcjax: L1 from the deep one on", "sentiment-natural", late, False)
    for strength in STRENGTHS:
        yield from _published(strength)
    # As many steps as the deep one's epoch and the healing together have.
    again = (*_PRESET, *_PLAIN, "--epochs", "1.3", "--collapsed-from", "{sentiment-healed-3}")
    yield Way("the compact topology, fused layers new", "sentiment-scratch-3", again, False)
    taught = (*again, "--teacher", "{sentiment-deep}", "--no-deep-teacher")
    yield Way("the same, distilled", "sentiment-distilled-3", taught, False)
    for peer, method in PEERS.items():
        asked = (f"benchmarks.{peer}", "{sentiment-healed-3}")
        row = f"sentiment-{peer.replace('_', '-')}-3"
        yield Way(f"{method}, healed alike", row, asked, False)


def _surgery(fit: str, count: int, heal_epochs: int) -> tuple[str, ...]:
    asked = ("--fit", fit, "--count", str(count), "--heal-epochs", str(heal_epochs))
    return (*_FROM, *asked, "--heal-learning-rate", _RATES[count])


def _published(strength: str) -> Iterator[Way]:
    """Yields the published method: what it comes to, and its sites fused whatever their slopes."""
    row = f"sentiment-published-{strength}"
    reference = ("--protocol", "reference", "--strength", strength, "--epochs", "1")
    method = f"published, λ = {strength}"
    yield Way(f"{method}, its threshold", row, (*_FROM, *reference), False)
    for k in (3, 4, 6):
        fused = (*_PRESET, "--from", f"{{{row}}}", *_SUBSET, "--fit", "exact")
        asked = (*fused, "--count", str(k), "--heal-epochs", "0", "--activation", "relu")
        yield Way(method, f"{row}-exact-{k}", asked, False)


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet; prints a table, writes a JSON.

    Args:
      seeds: of the runs; all but the headline rows take the first alone.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    report("sentiment", ways(), seeds=seeds, runs_dir=runs_dir, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
