"""The models that are timed, in bfloat16, at the size of each preset."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from benchmarks.networks import Network, gpt2, minilm, vit
from lcjax.models import BERT, Decoder, DecoderConfig
from train.tasks.language.objective import LanguageModel
from train.tasks.text.objective import TextClassifier

PresetName = Literal["full", "tiny"]
_BF16: dict[str, Any] = {"dtype": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the benchmark.

    Attributes:
      network: with its batch and its training.
      decodes: whether it generates text.
      looked_up: globs of the params of which a token reads one row.
    """

    network: Network
    decodes: bool = False
    looked_up: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In tables."""
        return self.network.name

    @property
    def batch(self) -> str:
        """The batch in words, such as 16 × 1,024."""
        shape, size = self.network.example[0].shape, self.network.batch_size
        return f"{size} × {shape[0]:,}" if len(shape) == 1 else str(size)


def _gpt2(batch_size: int, **fields: Any) -> Model:
    network = gpt2("124M", batch_size=batch_size, **_BF16, **fields)
    return Model(network, True, ("*position_embedding*",))


def _minilm(batch_size: int, length: int, **fields: Any) -> Model:
    module = BERT.from_preset("MiniLM-L6", num_classes=2, **_BF16, **fields)
    tokens = jax.ShapeDtypeStruct((length,), jnp.int32)
    network = minilm()
    return Model(
        dataclasses.replace(
            network,
            name="MiniLM-L6",
            objective=TextClassifier(module),
            example=(tokens, network.example[1]),
            batch_size=batch_size,
        )
    )


def _decoder(name: str, batch_size: int, config: DecoderConfig) -> Model:
    module: Any = Decoder(config, **_BF16)
    window = jax.ShapeDtypeStruct((config.max_length,), jnp.int32)
    network = dataclasses.replace(
        gpt2("124M"),
        name=name,
        objective=LanguageModel(module),
        example=(window, window),
        batch_size=batch_size,
        units=config.max_length,
    )
    return Model(network, True, ("*embed/*",))


# Of GPT-2's width and depth; 162 M parameters.
_SWIGLU = DecoderConfig(50_257, 768, 12, 12, 12, 64, 2048, max_length=1024)
_TINY_SWIGLU = DecoderConfig(512, 32, 1, 2, 2, 16, 64, max_length=32)
_TINY: dict[str, Any] = {"depth": 1, "width": 32, "num_heads": 2}

PRESETS: dict[PresetName, tuple[Callable[[], Model], ...]] = {
    "full": (
        lambda: Model(vit("B/16", batch_size=128, **_BF16)),
        lambda: _gpt2(16),
        lambda: _minilm(32, 128),
        lambda: _decoder("SwiGLU decoder", 16, _SWIGLU),
    ),
    "tiny": (
        lambda: Model(vit("Ti/16", batch_size=2, mlp_hidden=64, **_TINY, **_BF16)),
        lambda: _gpt2(2, max_length=32, vocab_size=512, **_TINY),
        lambda: _minilm(2, 16, vocab_size=512, mlp_hidden=64, **_TINY),
        lambda: _decoder("SwiGLU decoder", 2, _TINY_SWIGLU),
    ),
}
