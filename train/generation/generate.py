"""Continues a text: `python -m train.language generate CHECKPOINT --prompt "ROMEO:"`.

The checkpoint, deep or compact, is enough; no other file of its run is needed. The folder of a
decoder, such as `lcjax collapse-model` or `python -m train.language export` writes, is read too.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
import tyro

import lcjax
from train.data.text.vocabulary import Pieces, Vocabulary, vocabulary_from_json
from train.generation.sampler import Sampler
from train.runs.finished import classifier_of
from train.tasks.language.folder import folder_model, is_model_folder
from train.tasks.language.objective import LanguageModel
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class Generated:
    """A generated text.

    Attributes:
      text: prompt and continuation.
      tokens: number of generated tokens.
      tokens_per_second: without compilation.
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
    """Continues a text.

    Args:
      checkpoint: directory from `python -m train.language`, such as runs/NAME/compact; or the
        folder of a decoder.
      prompt: text to continue.
      length: number of tokens to generate.
      temperature: of sampling; values below 1 favour likely tokens.
      top_k: sample from this many of the likeliest tokens; by default from all.
      seed: of sampling.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if it is damaged or not from a language model; if the prompt is empty, too long or
        has characters that the vocabulary lacks; or if another argument is out of range.
      ImportError: if the package tokenizers is needed and not installed.
    """
    _check(length, temperature, top_k, seed)
    model, vocabulary, variables = _read(checkpoint)
    tokens, context = vocabulary.encode(prompt), model.longest
    if not 1 <= len(tokens) <= context:
        raise ConfigError(
            f"--prompt has {len(tokens)} tokens; expected 1 to {context}, the model's context."
        )
    sampler = Sampler(
        model.module,
        variables,
        length=min(context, len(tokens) + length),
        temperature=temperature,
        top_k=top_k,
        tokens=vocabulary.size,
    )
    sampler.compile(len(tokens), length)
    start = time.perf_counter()
    generated = sampler.sample(tokens, length, jax.random.key(seed))
    seconds = time.perf_counter() - start
    text = prompt + vocabulary.decode_after(tokens, generated)
    return Generated(text, length, length / seconds)


def _read(path: Path) -> tuple[LanguageModel, Vocabulary, Any]:
    """Returns the model, vocabulary and variables of a checkpoint or a model folder."""
    if is_model_folder(path):
        model, variables = folder_model(path)
        return model, Pieces.from_folder(path), variables
    model, metadata = classifier_of(path, needs=("tokens",))
    if not isinstance(model, LanguageModel):
        raise ConfigError(
            f"{path} classifies {metadata['kind']}s; expected a checkpoint of `python -m "
            "train.language`."
        )
    return model, vocabulary_from_json(metadata["data"]["tokens"]), lcjax.restore(path)


def _check(length: int, temperature: float, top_k: int | None, seed: int) -> None:
    for name, value, accepted, expected in (
        ("length", length, length >= 1, "at least 1"),
        ("temperature", temperature, 0 < temperature < math.inf, "a number above 0"),
        ("top-k", top_k, top_k is None or top_k >= 1, "at least 1"),
        ("seed", seed, 0 <= seed < 2**32, "in [0, 2^32)"),
    ):
        if not accepted:
            raise ConfigError(f"--{name} is {value}; expected {expected}.")
