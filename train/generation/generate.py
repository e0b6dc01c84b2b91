"""Continues a text: `python -m train.language generate CHECKPOINT --prompt "ROMEO:"`.

The checkpoint, deep or compact, is enough; no other file of its run is needed.
"""

import dataclasses
import math
import time
from pathlib import Path

import jax
import tyro

import lcjax
from lcjax.models import GPT2
from train.data.text.vocabulary import vocabulary_from_json
from train.generation.sampler import Sampler
from train.runs.finished import classifier_of
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
      checkpoint: directory from `python -m train.language`, such as runs/NAME/compact.
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
    model, metadata = classifier_of(checkpoint, needs=("tokens",))
    if not isinstance(model, LanguageModel):
        raise ConfigError(
            f"{checkpoint} classifies {metadata['kind']}s; expected a checkpoint of `python -m "
            "train.language`."
        )
    if not isinstance(model.module, GPT2):
        raise ConfigError(
            f"{checkpoint} is of a {type(model.module).__name__}; expected a GPT-2. Generate with "
            "the model's own cache, lcjax.models.Decoder.init_cache."
        )
    vocabulary = vocabulary_from_json(metadata["data"]["tokens"])
    tokens, context = vocabulary.encode(prompt), model.module.max_length
    if not 1 <= len(tokens) <= context:
        raise ConfigError(
            f"--prompt has {len(tokens)} tokens; expected 1 to {context}, the model's context."
        )
    variables = lcjax.restore(checkpoint)
    sampler = Sampler(model.module, variables, temperature=temperature, top_k=top_k)
    sampler.compile(len(tokens), length)
    start = time.perf_counter()
    generated = sampler.sample(tokens, length, jax.random.key(seed))
    seconds = time.perf_counter() - start
    return Generated(prompt + vocabulary.decode(generated), length, length / seconds)


def _check(length: int, temperature: float, top_k: int | None, seed: int) -> None:
    for name, value, accepted, expected in (
        ("length", length, length >= 1, "at least 1"),
        ("temperature", temperature, 0 < temperature < math.inf, "a number above 0"),
        ("top-k", top_k, top_k is None or top_k >= 1, "at least 1"),
        ("seed", seed, 0 <= seed < 2**32, "in [0, 2^32)"),
    ):
        if not accepted:
            raise ConfigError(f"--{name} is {value}; expected {expected}.")
