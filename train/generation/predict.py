"""Classifies a text: `python -m train.sentiment predict CHECKPOINT "a film I would see twice"`.

The checkpoint, deep or compact, says all that is needed; nothing else of its run is. Prints the
label and its probability.
"""

import warnings
from pathlib import Path

import jax
import numpy as np
import tyro

from lcjax.io.checkpoint import restore
from train.data.text.length_buckets import PADDING
from train.data.text.tokenizer import Tokenizer
from train.runs.finished import classifier_of
from train.validation import ConfigError


def predict(
    checkpoint: tyro.conf.Positional[Path],
    text: tyro.conf.Positional[str],
    /,
) -> tuple[str, float]:
    """Returns the likeliest class of a text and its probability, 0 to 1.

    Args:
      checkpoint: directory that `python -m train.sentiment` saved, such as runs/NAME/compact.
      text: to classify; cut where the training texts were.

    Raises:
      FileNotFoundError: when there is no checkpoint.
      ValueError: when it is damaged or not one of a run on texts, or the text is empty.
      ImportError: when the package tokenizers is not installed.
    """
    if not text.strip():
        raise ConfigError("the text is empty; wanted at least a word.")
    classifier, metadata = classifier_of(checkpoint, needs=("lengths", "tokenizer"))
    if metadata["kind"] != "text":
        raise ConfigError(
            f"{checkpoint} classifies {metadata['kind']}s; wanted a checkpoint that `python -m "
            "train.sentiment` made."
        )
    known = metadata["data"]
    lengths = known["lengths"]
    (tokens,), cut = Tokenizer(known["tokenizer"], lengths[-1]).encode([text])
    if cut:
        warnings.warn(f"the text has more than {lengths[-1]} tokens and is cut", stacklevel=2)
    padded = np.full((1, next(n for n in lengths if n >= len(tokens))), PADDING, np.int32)
    padded[0, : len(tokens)] = tokens
    logits = jax.jit(classifier.logits)(restore(checkpoint), padded)
    probabilities = jax.nn.softmax(logits[0])
    best = int(probabilities.argmax())
    return known["class_names"][best], float(probabilities[best])
