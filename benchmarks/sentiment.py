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
STRENGTHS = ("0.08", "1", "10")  # of the published penalty
_PRESET = ("train.sentiment", "sst2-minilm")
_PLAIN = ("--protocol", "natural", "--strength", "0", "--slope-learning-rate", "0")
_FROM = (*_PRESET, "--from", "{sentiment-deep}", "--train-examples", "20000")


def ways() -> Iterator[Way]:
    """Yields all ways; those that others start from come first."""
    yield Way("deep", "sentiment-deep", (*_PRESET, *_PLAIN))
    for k in (3, 4, 6):
        healed, repeated = f"sentiment-heal-{k}", k in REPEATED
        yield Way("lcjax: least squares, healed", healed, _surgery("least_squares", k, 1), repeated)
    for k in (3, 4, 6):
        for fit in ("exact", "moments", "least_squares"):
            row = f"sentiment-{fit.replace('_', '-')}-{k}"
            yield Way(f"{fit.replace('_', ' ')}, no training", row, _surgery(fit, k, 0), False)
        removed = ("benchmarks.removed", f"{{sentiment-heal-{k}}}")
        yield Way("FFNs removed, healed", f"sentiment-removed-{k}", removed, False)
        for peer, method in PEERS.items():
            asked = (f"benchmarks.{peer}", f"{{sentiment-heal-{k}}}")
            row = f"sentiment-{peer.replace('_', '-')}-{k}"
            yield Way(f"{method}, healed", row, asked, k in REPEATED)
        taught = (*_surgery("least_squares", k, 1), "--deep-teacher")
        yield Way("lcjax: the same, the deep one teaching", f"sentiment-taught-{k}", taught, False)
    more = (*_FROM, *_PLAIN, "--epochs", "1")
    yield Way("deep, trained on", "sentiment-more", more, False)
    late = (*_FROM, "--protocol", "natural", "--epochs", "1")
    yield Way("lcjax: L1 from the deep one on", "sentiment-natural", late, False)
    for strength in STRENGTHS:
        yield from _published(strength)


def _surgery(fit: str, count: int, heal_epochs: int) -> tuple[str, ...]:
    asked = ("--fit", fit, "--count", str(count), "--heal-epochs", str(heal_epochs))
    return (*_FROM, *asked)


def _published(strength: str) -> Iterator[Way]:
    """Yields the published method: what it comes to, and its sites fused whatever their slopes."""
    row = f"sentiment-published-{strength}"
    reference = ("--protocol", "reference", "--strength", strength, "--epochs", "1")
    method = f"published, λ = {strength}"
    yield Way(f"{method}, its threshold", row, (*_FROM, *reference), False)
    for k in (3, 4, 6):
        fused = (*_PRESET, "--from", f"{{{row}}}", "--train-examples", "20000", "--fit", "exact")
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
