"""The loss of a compact model on texts that no layer was fitted on, predicted and measured."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lcjax.folder.families import Family, LanguageFamily
from lcjax.folder.fitting.streams import Streams
from lcjax.folder.storage.hidden_states import HiddenStates

_PIECE = 1024  # tokens whose losses are computed at once


def measure_losses(family: Family, streams: Streams, error: float | None) -> dict[str, Any]:
    """Returns the losses of the deep and the compact model, as JSON.

    With a head, the cross-entropy of the next token in nats; without one, one minus the cosine of
    a token's last hidden states in the two models, of the deep model 0. Over held-out texts, or
    over all where none is. The prediction is the loss of the deep model with Gaussian noise in its
    last hidden states, of the squared error that the fits left on the texts they were fitted on.

    Args:
      family: of the model.
      streams: with the outputs of the last layer.
      error: mean squared error of a token's last hidden states; None where it is not known.
    """
    held_out = any(batch.counts[1].any() for batch in streams.batches)
    deep_file, compact_file = (streams.states(name, family.depth) for name in ("deep", "compact"))
    noise = np.random.default_rng(0)
    scale = np.sqrt((error or 0.0) / family.width)
    sums, tokens = np.zeros(3), 0
    for deep, compact, targets in _pieces(streams, deep_file, compact_file, held_out, family):
        noisy = deep + scale * noise.standard_normal(deep.shape, np.float32)
        models = (deep, noisy.astype(np.float32), compact)
        if isinstance(family, LanguageFamily):  # together: the vocabulary is read once for all
            losses = family.next_token_loss(np.concatenate(models), np.tile(targets, 3))
            losses = losses.reshape(3, -1)
        else:
            last = [family.outputs(states) for states in models]
            losses = [np.zeros(1), *(1 - cosine(last[0], states) for states in last[1:])]
        sums += [float(np.sum(each)) for each in losses]
        tokens += len(deep)
    means = [float(each) / tokens if tokens else None for each in sums]
    predicts = isinstance(family, LanguageFamily)
    return {
        "name": "next_token_cross_entropy" if predicts else "one_minus_cosine",
        "held_out": held_out,
        "tokens": tokens,
        "deep": means[0],
        "predicted": None if error is None else means[1],
        "measured": means[2],
    }


def _pieces(
    streams: Streams, deep: HiddenStates, compact: HiddenStates, held_out: bool, family: Family
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the states of some tokens in both models, and the tokens after them.

    All pieces but the last are of one length, across batches: the head compiles once for them, and
    reads its vocabulary as seldom as possible.
    """
    left: Sequence[np.ndarray] = ()
    for part in _chosen(streams, deep, compact, held_out, family):
        left = [np.concatenate(both) for both in zip(left, part, strict=True)] if left else part
        while len(left[0]) >= _PIECE:
            yield left[0][:_PIECE], left[1][:_PIECE], left[2][:_PIECE]
            left = [each[_PIECE:] for each in left]
    if left and len(left[0]):
        yield left[0], left[1], left[2]


def _chosen(
    streams: Streams, deep: HiddenStates, compact: HiddenStates, held_out: bool, family: Family
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields, of each batch, the states of the tokens that count, and the tokens after them.

    Of a language model those tokens that have one after them; of others all, with themselves.
    """
    for i, batch in enumerate(streams.batches):
        chosen, after = batch.counts[1] if held_out else batch.real, batch.tokens
        if isinstance(family, LanguageFamily):
            chosen, after = chosen[:, :-1] & batch.real[:, 1:], after[:, 1:]
        length = chosen.shape[1]
        yield deep.read(i)[:, :length][chosen], compact.read(i)[:, :length][chosen], after[chosen]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the cosines of the rows of two arrays, (n, width), in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / norms
