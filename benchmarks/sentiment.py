"""MiniLM on SST-2: ways to a compact encoder, each within one more epoch on 20,000 phrases.

`python -m benchmarks.sentiment`: resumes where it was stopped; the runs stay in runs/benchmark. The
deep network is fine-tuned for an epoch of all phrases; then three FFNs go, or, with `--sizes 4 6`,
four and all six, published by themselves.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro

from benchmarks.peers import PEERS
from benchmarks.record import RESULTS
from benchmarks.ways import Way, report

SIZE = 3  # FFNs less, where all ways are run
REPEATED = (SIZE, 4)  # sizes whose healed ones are run with every seed
STRENGTHS = ("1", "10")  # of the published penalty
_PRESET = ("train.sentiment", "sst2-minilm")
_PLAIN = ("--protocol", "natural", "--strength", "0", "--slope-learning-rate", "0")
_SUBSET = ("--train-examples", "20000", "--longest")
_FROM = (*_PRESET, "--from", "{sentiment-deep}", *_SUBSET)
# Of three and of all six chosen on the validation split, with the second seed; of four between.
_RATES = {3: "3e-5", 4: "5e-5", 6: "1e-4"}


def ways(sizes: Sequence[int] = (SIZE,)) -> Iterator[Way]:
    """Yields all ways to these numbers of FFNs less; those that others start from come first."""
    yield Way("deep", "sentiment-deep", (*_PRESET, *_PLAIN))
    for k in sizes:
        yield from _ways_to(k)
    if SIZE in sizes:
        yield from _trained()
    for strength in STRENGTHS:
        yield from _published(strength, sizes)


def _ways_to(k: int) -> Iterator[Way]:
    """Yields the ways from the deep network to k FFNs less."""
    healed = f"sentiment-healed-{k}"
    method = "lcjax: least squares, healed, the deep one teaching"
    yield Way(method, healed, _surgery("least_squares", k, 1), k in REPEATED)
    for fit in ("exact", "moments", "least_squares"):
        row, repeated = f"sentiment-{fit.replace('_', '-')}-{k}", fit == "least_squares"
        method = f"{fit.replace('_', ' ')}, no training"
        yield Way(method, row, _surgery(fit, k, 0), k == SIZE and repeated)
    removed = ("benchmarks.removed", f"{{{healed}}}")
    yield Way("FFNs removed, healed alike", f"sentiment-removed-{k}", removed, k == SIZE)
    alone = (*_surgery("least_squares", k, 1), "--no-deep-teacher")
    yield Way("lcjax: the same without a teacher", f"sentiment-alone-{k}", alone, False)
    for peer, method in PEERS.items() if k == SIZE else ():
        row = f"sentiment-{peer.replace('_', '-')}-{k}"
        yield Way(f"{method}, healed alike", row, (f"benchmarks.{peer}", f"{{{healed}}}"))


def _trained() -> Iterator[Way]:
    """Yields what is trained on from the deep network, or beside it in as many steps."""
    twice = (*_PRESET, *_PLAIN, "--epochs", "2")
    yield Way("deep, two epochs", "sentiment-deep-twice", twice, False)
    more = (*_FROM, *_PLAIN, "--epochs", "1", "--learning-rate", _RATES[3])
    yield Way("deep, trained on", "sentiment-more", more, False)
    late = (*_FROM, "--protocol", "natural", "--epochs", "1", "--learning-rate", _RATES[6])
    yield Way("lcjax: L1 from the deep one on", "sentiment-natural", late)
    # As many steps as the deep one's epoch and the healing together have.
    healed = f"{{sentiment-healed-{SIZE}}}"
    again = (*_PRESET, *_PLAIN, "--epochs", "1.3", "--collapsed-from", healed)
    yield Way("the compact topology, fused layers new", f"sentiment-scratch-{SIZE}", again)
    taught = (*again, "--teacher", "{sentiment-deep}", "--no-deep-teacher")
    yield Way("the same, distilled", f"sentiment-distilled-{SIZE}", taught)


def _surgery(fit: str, count: int, heal_epochs: int) -> tuple[str, ...]:
    asked = ("--fit", fit, "--count", str(count), "--heal-epochs", str(heal_epochs))
    return (*_FROM, *asked, "--heal-learning-rate", _RATES[count])


def _published(strength: str, sizes: Sequence[int]) -> Iterator[Way]:
    """Yields the published method: what it comes to, and its sites fused whatever their slopes."""
    row, main_one = f"sentiment-published-{strength}", strength == STRENGTHS[0]
    reference = ("--protocol", "reference", "--strength", strength, "--epochs", "1")
    method = f"published, λ = {strength}"
    yield Way(f"{method}, its threshold", row, (*_FROM, *reference), main_one)
    for k in sizes:
        fused = (*_PRESET, "--from", f"{{{row}}}", *_SUBSET, "--fit", "exact")
        asked = (*fused, "--count", str(k), "--heal-epochs", "0", "--activation", "relu")
        yield Way(method, f"{row}-exact-{k}", asked, main_one and k == SIZE)


def main(
    sizes: tuple[int, ...] = (SIZE,),
    seeds: tuple[int, ...] = (0, 1, 2),
    runs_dir: Path = Path("runs/benchmark"),
    results_dir: Path = RESULTS,
) -> None:
    """Runs what is not there yet; prints a table, writes a JSON.

    Args:
      sizes: numbers of FFNs less, of 3, 4 and 6; others than 3 go into a file of their own.
      seeds: of the runs; some rows take the first alone.
      runs_dir: where the runs are kept.
      results_dir: where results are written.
    """
    name = "-".join(["sentiment", *(str(size) for size in sizes if sizes != (SIZE,))])
    report(name, ways(sizes), seeds=seeds, runs_dir=runs_dir, results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
