"""Classifies a text: `python -m train.sentiment predict CHECKPOINT "a film I would see twice"`.

The checkpoint, deep or compact, is enough; no other file of its run is needed. Prints the label and
its probability.
"""

import warnings
from pathlib import Path

import jax
import numpy as np
import tyro

import lcjax
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
      checkpoint: directory from `python -m train.sentiment`, such as runs/NAME/compact.
      text: to classify; truncated like the training texts.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if it is damaged or not from a run on texts, or the text is empty.
      ImportError: if the package tokenizers is not installed.
    """
    if not text.strip():
        raise ConfigError("the text is empty; expected at least one word.")
    classifier, metadata = classifier_of(checkpoint, needs=("lengths", "tokenizer"))
    if metadata["kind"] != "text":
        raise ConfigError(
            f"{checkpoint} is from a run of kind {metadata['kind']}; expected a checkpoint of "
            "`python -m train.sentiment`."
        )
    spec = metadata["data"]
    lengths = spec["lengths"]
    (tokens,), truncated = Tokenizer(spec["tokenizer"], lengths[-1]).encode([text])
    if truncated:
        warnings.warn(f"the text has more than {lengths[-1]} tokens and is truncated", stacklevel=2)
    padded = np.full((1, next(n for n in lengths if n >= len(tokens))), PADDING, np.int32)
    padded[0, : len(tokens)] = tokens
    logits = jax.jit(classifier.logits)(lcjax.restore(checkpoint), padded)
    probabilities = jax.nn.softmax(logits[0])
    best = int(probabilities.argmax())
    return spec["class_names"][best], float(probabilities[best])
