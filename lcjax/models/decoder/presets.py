"""Published decoders by name."""

from collections.abc import Mapping
from typing import Any

from lcjax.models.decoder.config import DecoderConfig
from lcjax.models.decoder.rotary import Rope

_LLAMA3: dict[str, Any] = dict(vocab_size=128_256, max_length=131_072, epsilon=1e-5)
_SMOLLM2: dict[str, Any] = dict(
    vocab_size=49_152, head_width=64, max_length=8192, epsilon=1e-5, rope=Rope(100_000.0),
    tied_head=True,
)  # fmt: skip
_QWEN3: dict[str, Any] = dict(
    vocab_size=151_936, num_kv_heads=8, head_width=128, max_length=40_960, rope=Rope(1_000_000.0),
    qk_norm=True,
)  # fmt: skip
_MISTRAL: dict[str, Any] = dict(
    width=4096, depth=32, num_heads=32, num_kv_heads=8, head_width=128, mlp_hidden=14_336,
    max_length=32_768, epsilon=1e-5,
)  # fmt: skip
_PRESETS: Mapping[str, DecoderConfig] = {
    "Llama-3.2-1B": DecoderConfig(
        **_LLAMA3, width=2048, depth=16, num_heads=32, num_kv_heads=8, head_width=64,
        mlp_hidden=8192, rope=Rope(500_000.0, "llama3", 32.0), tied_head=True,
    ),
    "Llama-3.1-8B": DecoderConfig(
        **_LLAMA3, width=4096, depth=32, num_heads=32, num_kv_heads=8, head_width=128,
        mlp_hidden=14_336, rope=Rope(500_000.0, "llama3", 8.0),
    ),
    "SmolLM2-135M": DecoderConfig(
        **_SMOLLM2, width=576, depth=30, num_heads=9, num_kv_heads=3, mlp_hidden=1536
    ),
    "SmolLM2-360M": DecoderConfig(
        **_SMOLLM2, width=960, depth=32, num_heads=15, num_kv_heads=5, mlp_hidden=2560
    ),
    "Qwen3-0.6B": DecoderConfig(
        **_QWEN3, width=1024, depth=28, num_heads=16, mlp_hidden=3072, tied_head=True
    ),
    "Qwen3-1.7B": DecoderConfig(
        **_QWEN3, width=2048, depth=28, num_heads=16, mlp_hidden=6144, tied_head=True
    ),
    "Qwen3-4B": DecoderConfig(
        **_QWEN3, width=2560, depth=36, num_heads=32, mlp_hidden=9728, tied_head=True
    ),
    "Qwen3-8B": DecoderConfig(**_QWEN3, width=4096, depth=36, num_heads=32, mlp_hidden=12_288),
    "Gemma-3-1B": DecoderConfig(
        vocab_size=262_144, width=1152, depth=26, num_heads=4, num_kv_heads=1, head_width=256,
        mlp_hidden=6912, max_length=32_768, activation="gelu_pytorch_tanh",
        rope=Rope(1_000_000.0), local_rope=Rope(10_000.0),
        windows=tuple(None if i % 6 == 5 else 512 for i in range(26)),
        query_scale=256**-0.5, qk_norm=True, norm_offset=True, post_norms=True,
        scale_embedding=True, tied_head=True,
    ),
    "Mistral-7B-v0.1": DecoderConfig(**_MISTRAL, vocab_size=32_000, windows=(4096,) * 32),
    "Mistral-7B-v0.3": DecoderConfig(**_MISTRAL, vocab_size=32_768, rope=Rope(1_000_000.0)),
}  # fmt: skip


def preset_config(preset: str) -> DecoderConfig:
    """Returns the config of a published decoder.

    Args:
      preset: the name, such as Llama-3.2-1B; the base and the instruction-tuned model are the same.

    Raises:
      ValueError: unknown preset; lists the known ones.

    Example:
      >>> preset_config("Qwen3-8B").depth
      36
    """
    if preset not in _PRESETS:
        raise ValueError(f"Decoder: got preset {preset!r}, expected one of {', '.join(_PRESETS)}.")
    return _PRESETS[preset]
