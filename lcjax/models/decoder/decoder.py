"""The decoders of the Llama family: Llama, Mistral, SmolLM, Qwen 2 and 3, Gemma 2 and 3."""

from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.models.decoder.block import DecoderBlock
from lcjax.models.decoder.config import DecoderConfig, LayerConstants
from lcjax.models.decoder.context import TextContext, read_context
from lcjax.models.decoder.ends import DecoderEmbedding, DecoderHead
from lcjax.models.decoder.presets import preset_config


class Decoder(nn.Module):
    """A transformer decoder with rotary positions, root mean square norms and gated MLPs.

    Its children are `embed`, a `DecoderEmbedding`; `block_0`, `block_1`, ..., each a
    `DecoderBlock`; and `head`, a `DecoderHead`. Each runs alone from its own part of the params.

    With a key-value cache from `init_cache` in the variables, under "cache", the tokens continue
    the cached text. A prompt and a single token run the same code, each compiled once for its
    shape:

      step = jax.jit(partial(model.apply, last_only=True, mutable="cache"))
      logits, cache = step(variables | {"cache": model.init_cache(batch, 64)}, prompt)
      logits, cache = step(variables | cache, logits.argmax(-1)[:, None])

    Attributes:
      config: sizes and options.
      dtype: dtype of the computation and the cache; None takes that of the params, and float32 for
        the cache. Norms, softmax, rotations and logits are float32.
      param_dtype: dtype of params at `init`; that to which loaded weights are cast.
      scan_layers: whether the blocks are one `nn.scan`, with stacked params, `blocks`.
      remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax.models
      >>> model = lcjax.models.Decoder.from_preset("SmolLM2-135M")
      >>> tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)[0].shape
      (1, 8, 49152)

    References: Touvron et al. 2023, arXiv 2302.13971, section 2.2; Llama Team 2024,
    arXiv 2407.21783; Jiang et al. 2023, arXiv 2310.06825; Yang et al. 2025, arXiv 2505.09388;
    Gemma Team 2025, arXiv 2503.19786.
    """

    config: DecoderConfig
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: bool = False

    @classmethod
    def from_preset(cls, preset: str, **fields: Any) -> Self:
        """Returns a published model, such as Llama-3.2-1B or Gemma-3-1B.

        Args:
          preset: the name.
          **fields: attributes of the model or of its config that override the preset's.

        Raises:
          ValueError: unknown preset; lists the known ones.
        """
        names = {field.name for field in fields_of(DecoderConfig)}
        sizes = {name: fields.pop(name) for name in names & fields.keys()}
        return cls(replace(preset_config(preset), **sizes), **fields)

    def init_cache(self, batch: int, length: int | None = None) -> dict[str, Any]:
        """Returns an empty key-value cache: keys and values (batch, length, key heads, head width).

        Args:
          batch: number of texts.
          length: maximum number of cached tokens, padding included; None is the config's
            `max_length`. Logits are NaN after more.
        """
        config = self.config
        length = config.max_length if length is None else length
        heads = (batch, length, config.num_kv_heads, config.head_width)
        dtype = self.dtype or jnp.float32

        def block(*stacked: int) -> dict[str, Any]:
            slots = {name: jnp.zeros((*stacked, *heads), dtype) for name in ("key", "value")}
            return {"attention": slots}

        if self.scan_layers:
            blocks = {"blocks": block(config.depth)}
        else:
            blocks = {f"block_{i}": block() for i in range(config.depth)}
        return blocks | {"real": jnp.zeros((batch, length), bool), "index": jnp.int32(0)}

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        *,
        last_only: bool = False,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns logits of the next token, float32 (batch, tokens, vocabulary).

        Args:
          tokens: integers (batch, tokens); NaN results from one that is not in the vocabulary.
          mask: bool or 0 and 1, (batch, tokens); False at padding, before or after the text: no
            token attends to it and positions do not count it. None: no padding.
          last_only: whether to return the logits of each text's last token only, (batch,
            vocabulary).
          deterministic: without effect, as there is no dropout.

        Raises:
          ValueError: tokens with other axes, or longer than the cache.
        """
        if tokens.ndim != 2:
            raise ValueError(f"tokens: got shape {tokens.shape}, expected (batch, tokens).")
        real = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
        context, overflow = self._context(real)
        pieces = (self.config, self.dtype, self.param_dtype)
        embed = DecoderEmbedding(*pieces, name="embed")
        x = self._blocks(embed(tokens), context)
        if last_only:
            last = jnp.where(real, jnp.arange(tokens.shape[1])[None], 0).max(1)
            x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        table = embed.embedding if self.config.tied_head else None
        logits = DecoderHead(*pieces, name="head")(x, table)
        return logits if overflow is None else jnp.where(overflow, jnp.float32(jnp.nan), logits)

    def _context(self, real: jax.Array) -> tuple[TextContext, jax.Array | None]:
        """Returns the context, and whether the cache overflows; None without a cache."""
        if self.has_variable("cache", "real"):
            room = self.get_variable("cache", "real").shape[1]
            if real.shape[1] > room:
                raise ValueError(
                    f"tokens: got texts of {real.shape[1]} tokens, expected at most {room}; "
                    "truncate them, or use a longer cache."
                )
        return read_context(self, real)

    def _blocks(self, x: jax.Array, context: TextContext) -> jax.Array:
        def run(block: DecoderBlock, x: jax.Array, context: TextContext, layer: Any):
            return block(x, context, layer), None

        pieces, layers = (self.config, self.dtype, self.param_dtype), self.config.layers
        if not self.scan_layers:
            run = nn.remat(run) if self.remat else run
            for i, layer in enumerate(layers):
                x, _ = run(DecoderBlock(*pieces, name=f"block_{i}"), x, context, layer)
            return x
        run = nn.remat(run, prevent_cse=False) if self.remat else run
        axes: Any = (nn.broadcast, 0)  # the context is shared, the constants are stacked
        scan = nn.scan(
            run,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=axes,
            length=len(layers),
        )
        stacked = LayerConstants(*(np.stack(values) for values in zip(*layers, strict=True)))
        return scan(DecoderBlock(*pieces, name="blocks"), x, context, stacked)[0]
