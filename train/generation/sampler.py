"""Text token by token: a decoder that remembers what it has read."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.models import GPT2


class Writer:
    """A decoder that goes on with a text; deep or compact, as its variables are.

    Keys and values of what was read are kept, so that one token more costs one pass over one token:
    one compiled step serves all of them. Where the text outgrows the model's table of positions,
    the last half of it is read anew, and it goes on from there.

    Args:
      model: the decoder.
      variables: of it.
      temperature: by which logits are divided before a token is drawn; above 0.
      top_k: draw from so many of the likeliest tokens; None for all.
    """

    def __init__(
        self, model: GPT2, variables: Any, *, temperature: float = 1.0, top_k: int | None = None
    ):
        self._model, self._variables = model, variables
        self._draw = partial(draw, temperature=temperature, top_k=top_k)
        self._programs: dict[int, Any] = {}

    def prepare(self, prompt: int, count: int) -> None:
        """Compiles all that `write` runs: for a token, for the prompt, and to read text anew.

        Args:
          prompt: how many tokens it has.
          count: how many will be drawn.
        """
        overflows = prompt + count - 1 > self._model.max_length
        for tokens in {prompt, 1} | ({self._half} if overflows else set()):
            self._program(tokens)

    def write(self, prompt: np.ndarray, count: int, key: jax.Array) -> np.ndarray:
        """Returns the tokens that follow.

        Args:
          prompt: the text so far, int32 (tokens,); one at least, at most as many as the model
            reads.
          count: how many tokens to draw.
          key: of the draws; that of a token depends on its number alone.
        """
        text = prompt.tolist()
        token, cache, held = self._begin(text, key, 0)
        for number in range(1, count):
            text.append(int(token[0]))
            if held == self._model.max_length:
                token, cache, held = self._begin(text[-self._half :], key, number)
            else:
                own = jax.random.fold_in(key, number)
                token, cache = self._program(1)(self._variables, cache, token[:, None], own)
                held += 1
        return np.array([*text[len(prompt) :], int(token[0])], np.int32)

    @property
    def _half(self) -> int:
        return max(1, self._model.max_length // 2)

    def _begin(self, text: list[int], key: jax.Array, number: int) -> tuple[jax.Array, Any, int]:
        """Returns the token after a text, the cache that holds the text, and how much that is."""
        tokens, own = jnp.array([text], jnp.int32), jax.random.fold_in(key, number)
        cache = self._model.init_cache(1)
        return *self._program(len(text))(self._variables, cache, tokens, own), len(text)

    def _program(self, tokens: int) -> Any:
        """Returns the compiled pass over so many tokens; it takes the cache for its own."""
        if tokens not in self._programs:
            jitted = jax.jit(self._pass, donate_argnums=1)
            shape = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
            cache, key = self._model.init_cache(1), jax.random.key(0)
            self._programs[tokens] = jitted.lower(self._variables, cache, shape, key).compile()
        return self._programs[tokens]

    def _pass(
        self, variables: Any, cache: Any, tokens: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        logits, held = self._model.apply(
            {**variables, "cache": cache}, tokens, last_only=True, mutable="cache"
        )
        return self._draw(logits, key), held["cache"]


def draw(logits: jax.Array, key: jax.Array, *, temperature: float, top_k: int | None) -> jax.Array:
    """Returns a token a row, drawn from `softmax(logits / temperature)`; int32 (batch,).

    Args:
      logits: (batch, vocabulary).
      key: of the draw.
      temperature: above 0.
      top_k: only so many of the likeliest tokens are drawn from; None for all.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)
