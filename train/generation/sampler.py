"""Generates text token by token with a key-value cache."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.models import GPT2, Decoder


class Sampler:
    """A decoder that continues a text, deep or compact.

    Keys and values of the text are cached, so that another token costs a pass over one token, with
    the same compiled step for all. When the cache is full, it is refilled with the last half of the
    text in it.

    Args:
      model: the decoder.
      variables: of the model.
      length: number of tokens in the cache; at most the model's context.
      temperature: divides the logits before sampling; above 0.
      top_k: sample from this many of the likeliest tokens; None for all.
      tokens: of the vocabulary, the first ones, which are sampled from; None for all.
    """

    def __init__(
        self,
        model: GPT2 | Decoder,
        variables: Any,
        *,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        tokens: int | None = None,
    ):
        self._model, self._variables = model, variables
        self._length, self._tokens = length, tokens
        self._sample_token = partial(sample_token, temperature=temperature, top_k=top_k)
        self._programs: dict[int, Any] = {}

    def compile(self, prompt: int, count: int) -> None:
        """Compiles the passes of `sample`: over one token, the prompt, and half a cache.

        Args:
          prompt: number of tokens of the prompt.
          count: number of tokens to generate.
        """
        overflows = prompt + count - 1 > self._length
        for tokens in {prompt, 1} | ({self._half} if overflows else set()):
            self._program(tokens)

    def sample(self, prompt: np.ndarray, count: int, key: jax.Array) -> np.ndarray:
        """Returns the generated tokens, int32 (count,).

        Args:
          prompt: the text so far, int32 (tokens,); at least one, at most `length`.
          count: number of tokens to generate.
          key: random key; that of a token depends on its number only.
        """
        text = prompt.tolist()
        token, cache, cached = self._begin(text, key, 0)
        for number in range(1, count):
            text.append(int(token[0]))
            if cached == self._length:
                token, cache, cached = self._begin(text[-self._half :], key, number)
            else:
                token_key = jax.random.fold_in(key, number)
                token, cache = self._program(1)(self._variables, cache, token[:, None], token_key)
                cached += 1
        return np.array([*text[len(prompt) :], int(token[0])], np.int32)

    @property
    def _half(self) -> int:
        return max(1, self._length // 2)

    def _begin(self, text: list[int], key: jax.Array, number: int) -> tuple[jax.Array, Any, int]:
        """Returns the token after a text, the cache of the text, and its number of tokens."""
        tokens, token_key = jnp.array([text], jnp.int32), jax.random.fold_in(key, number)
        cache = self._model.init_cache(1, self._length)
        return *self._program(len(text))(self._variables, cache, tokens, token_key), len(text)

    def _program(self, tokens: int) -> Any:
        """Returns the compiled pass over so many tokens; the cache is donated."""
        if tokens not in self._programs:
            jitted = jax.jit(self._pass, donate_argnums=1)
            shape = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
            cache, key = self._model.init_cache(1, self._length), jax.random.key(0)
            self._programs[tokens] = jitted.lower(self._variables, cache, shape, key).compile()
        return self._programs[tokens]

    def _pass(
        self, variables: Any, cache: Any, tokens: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        logits, updated = self._model.apply(
            {**variables, "cache": cache}, tokens, last_only=True, mutable="cache"
        )
        return self._sample_token(logits[:, : self._tokens], key), updated["cache"]


def sample_token(
    logits: jax.Array, key: jax.Array, *, temperature: float, top_k: int | None
) -> jax.Array:
    """Returns one token per row, sampled from `softmax(logits / temperature)`; int32 (batch,).

    Args:
      logits: (batch, vocabulary).
      key: random key.
      temperature: above 0.
      top_k: sample from this many of the likeliest tokens; None for all.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)
