"""Goes on with a text: `python -m train.language generate CHECKPOINT --prompt "ROMEO:"`.

The checkpoint, deep or compact, says all that is needed; nothing else of its run is.
"""

import dataclasses
import math
import time
from pathlib import Path

import jax
import tyro

from lcjax.io.checkpoint import restore
from train.data.text.vocabulary import vocabulary_from_json
from train.generation.sampler import Writer
from train.runs.finished import classifier_of
from train.tasks.language.objective import LanguageModel
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class Generated:
    """What a model wrote.

    Attributes:
      text: prompt and continuation.
      tokens: how many were drawn.
      tokens_per_second: compiling left out.
    """

    text: str
    tokens: int
    tokens_per_second: float


def generate(
    checkpoint: tyro.conf.Positional[Path],
    /,
    *,
    prompt: str = "\n",
    length: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Generated:
    """Goes on with a text.

    Args:
      checkpoint: directory that `python -m train.language` saved, such as runs/NAME/compact.
      prompt: the text to go on with.
      length: tokens to write.
      temperature: below 1 likely tokens become likelier.
      top_k: draw from so many of the likeliest tokens; by default from all.
      seed: of the draws.

    Raises:
      FileNotFoundError: when there is no checkpoint.
      ValueError: when it is damaged or not one of a language model, the prompt is empty, too long
        or has what the vocabulary lacks, or another argument is out of range.
      ImportError: when the package tokenizers is needed and not installed.
    """
    _check(length, temperature, top_k, seed)
    model, metadata = classifier_of(checkpoint, needs=("tokens",))
    if not isinstance(model, LanguageModel):
        raise ConfigError(
            f"{checkpoint} classifies {metadata['kind']}s; wanted a checkpoint that `python -m "
            "train.language` made."
        )
    vocabulary = vocabulary_from_json(metadata["data"]["tokens"])
    tokens, room = vocabulary.encode(prompt), model.module.max_length
    if not 1 <= len(tokens) <= room:
        raise ConfigError(
            f"--prompt has {len(tokens)} tokens; wanted 1 to {room}, the model's context."
        )
    writer = Writer(model.module, restore(checkpoint), temperature=temperature, top_k=top_k)
    writer.prepare(len(tokens), length)
    start = time.perf_counter()
    written = writer.write(tokens, length, jax.random.key(seed))
    seconds = time.perf_counter() - start
    return Generated(prompt + vocabulary.decode(written), length, length / seconds)


def _check(length: int, temperature: float, top_k: int | None, seed: int) -> None:
    for name, value, accepted, wanted in (
        ("length", length, length >= 1, "at least 1"),
        ("temperature", temperature, 0 < temperature < math.inf, "a number above 0"),
        ("top-k", top_k, top_k is None or top_k >= 1, "at least 1"),
        ("seed", seed, 0 <= seed < 2**32, "in [0, 2^32)"),
    ):
        if not accepted:
            raise ConfigError(f"--{name} is {value}; wanted {wanted}.")
