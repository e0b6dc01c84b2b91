"""Reads config.json of decoders, as transformers 4 and 5 write it and as older files have it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lcjax.interop import configs
from lcjax.models.decoder import DecoderConfig, Rope

Config = Mapping[str, Any]
_FULL, _SLIDING = "full_attention", "sliding_attention"
# Features of newer releases that change the function, with the values that switch them off.
_FIXED = {"partial_rotary_factor": 1.0, "use_bidirectional_attention": False}
_SCALINGS = ("default", "linear", "llama3")
# Fields whose defaults in transformers are those of one model, so that a config must have them.
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "gemma2": ("num_key_value_heads", "head_dim"),
    "gemma3_text": ("num_key_value_heads", "head_dim"),
    "mistral": ("num_key_value_heads",),
    "qwen2": ("num_key_value_heads",),
    "qwen3": ("num_key_value_heads", "head_dim"),
}


def decoder_config(config: Config) -> DecoderConfig | None:
    """Returns the config that a config.json describes; None for another model's.

    Raises:
      WeightsError: a field of a wrong type, sizes that do not divide, or a feature that `Decoder`
        lacks; names it.

    Example:
      >>> sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=4, vocab_size=9)
      >>> sizes |= dict(intermediate_size=16, hidden_act="silu", rms_norm_eps=1e-5)
      >>> read = decoder_config(sizes | {"model_type": "llama", "max_position_embeddings": 64})
      >>> read.num_kv_heads, read.head_width, read.tied_head
      (4, 2, False)
    """
    kind = config.get("model_type")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        return None
    configs.check_same_function(config, _FIXED, "Decoder")
    for name in _REQUIRED.get(str(kind), ()):
        configs.positive_int(config, name)
    return read(config)


def _llama(config: Config) -> DecoderConfig:
    bias = configs.flag(config, "attention_bias", False)
    mlp_bias = configs.flag(config, "mlp_bias", False)
    return replace(_common(config), qkv_bias=bias, out_bias=bias, mlp_bias=mlp_bias)


def _mistral(config: Config) -> DecoderConfig:
    common = _common(config)
    return replace(common, windows=_windows(config, _window(config), [_SLIDING] * common.depth))


def _qwen2(config: Config) -> DecoderConfig:
    return replace(_qwen3(config), qkv_bias=True, out_bias=False, qk_norm=False)


def _qwen3(config: Config) -> DecoderConfig:
    common = _common(config)
    window = _window(config) if configs.flag(config, "use_sliding_window", False) else None
    first = 0 if window is None else configs.natural(config, "max_window_layers", 28)
    kinds = [_SLIDING if i >= first else _FULL for i in range(common.depth)]
    bias = configs.flag(config, "attention_bias", False)
    windows = _windows(config, window, kinds)
    return replace(common, windows=windows, qk_norm=True, qkv_bias=bias, out_bias=bias)


def _gemma2(config: Config) -> DecoderConfig:
    gemma = _gemma(config, every=2)
    return replace(
        gemma,
        attention_softcap=_cap(config, "attn_logit_softcapping", 50.0),
        logits_softcap=_cap(config, "final_logit_softcapping", 30.0),
    )


def _gemma3(config: Config) -> DecoderConfig:
    every = configs.optional_int(config, "sliding_window_pattern")
    every = every or configs.optional_int(config, "_sliding_window_pattern") or 6
    gemma = _gemma(config, every=every)
    return replace(
        gemma,
        qk_norm=True,
        attention_softcap=_cap(config, "attn_logit_softcapping", None),
        logits_softcap=_cap(config, "final_logit_softcapping", None),
        rope=_rope(config, _FULL, theta=1_000_000.0),
        local_rope=_local_rope(config),
    )


_READERS: Mapping[str, Callable[[Config], DecoderConfig]] = {
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
MODEL_TYPES = tuple(_READERS)


def _gemma(config: Config, every: int) -> DecoderConfig:
    """Returns what Gemma 2 and 3 share; every so manyth block has no window."""
    common = _common(config, activation="hidden_activation", tied=True)
    kinds = [_FULL if (i + 1) % every == 0 else _SLIDING for i in range(common.depth)]
    bias = configs.flag(config, "attention_bias", False)
    return replace(
        common,
        windows=_windows(config, configs.positive_int(config, "sliding_window"), kinds),
        query_scale=configs.positive_number(config, "query_pre_attn_scalar", 256.0) ** -0.5,
        qkv_bias=bias,
        out_bias=bias,
        norm_offset=True,
        post_norms=True,
        scale_embedding=True,
    )


def _common(config: Config, *, activation: str = "hidden_act", tied: bool = False) -> DecoderConfig:
    """Returns the sizes; `activation` names its field, `tied` is the default of the family."""
    num_heads = configs.positive_int(config, "num_attention_heads")
    head_width = configs.optional_int(config, "head_dim")
    if head_width is None:
        configs.heads(config, "num_attention_heads", "hidden_size")
        head_width = configs.positive_int(config, "hidden_size") // num_heads
    if head_width % 2:
        raise configs.error("head_dim", head_width, "an even number")
    num_kv_heads = configs.optional_int(config, "num_key_value_heads") or num_heads
    if num_heads % num_kv_heads:
        expected = f"a divisor of num_attention_heads, {num_heads}"
        raise configs.error("num_key_value_heads", num_kv_heads, expected)
    nested = config.get("rope_parameters")
    return DecoderConfig(
        vocab_size=configs.positive_int(config, "vocab_size"),
        width=configs.positive_int(config, "hidden_size"),
        depth=configs.depth(config, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_width=head_width,
        mlp_hidden=configs.positive_int(config, "intermediate_size"),
        max_length=configs.positive_int(config, "max_position_embeddings"),
        activation=configs.activation_name(config, activation),
        epsilon=configs.epsilon(config, "rms_norm_eps"),
        rope=Rope() if isinstance(nested, dict) and _FULL in nested else _rope(config),
        tied_head=configs.flag(config, "tie_word_embeddings", tied),
    )


def _window(config: Config) -> int | None:
    """Returns the window of Mistral and Qwen; null is none, a missing field that of the family."""
    return configs.optional_int({"sliding_window": 4096, **config}, "sliding_window")


def _windows(config: Config, window: int | None, kinds: list[str]) -> tuple[int | None, ...]:
    """Returns the window of each block, from layer_types where they are; `kinds` is the default."""
    if config.get("layer_types") is not None:
        given, known = config["layer_types"], (_FULL, _SLIDING)
        if not isinstance(given, list) or len(given) != len(kinds):
            raise configs.error("layer_types", given, f"a list of {len(kinds)} names")
        if unknown := [kind for kind in given if kind not in known]:
            raise configs.error("layer_types", unknown[0], f"one of {', '.join(known)}")
        kinds = given
    windows = tuple(window if kind == _SLIDING else None for kind in kinds)
    return windows if any(windows) else ()


def _rope(config: Config, kind: str | None = None, theta: float = 10_000.0) -> Rope:
    """Returns the rotary embedding of blocks of one kind; `kind` None for a config with one."""
    name = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    scaling = config.get(name) or {}
    if not isinstance(scaling, dict):
        raise configs.error(name, scaling, "an object")
    if kind is not None and kind in scaling:
        name, scaling = f"{name}.{kind}", scaling[kind]
        if not isinstance(scaling, dict):
            raise configs.error(name, scaling, "an object")
    base = scaling if "rope_theta" in scaling else config
    rope = Rope(configs.positive_number(base, "rope_theta", theta))
    return _scaled(rope, scaling, name)


def _local_rope(config: Config) -> Rope:
    """Returns Gemma 3's rotary embedding of blocks with a window, which no scaling changes."""
    nested = config.get("rope_parameters") or {}
    if isinstance(nested, dict) and _SLIDING in nested:
        return _rope(config, _SLIDING, theta=10_000.0)
    return Rope(configs.positive_number(config, "rope_local_base_freq", 10_000.0))


def _scaled(rope: Rope, scaling: Config, name: str) -> Rope:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in _SCALINGS:
        raise configs.error(f"{name}.rope_type", kind, f"one of {', '.join(_SCALINGS)}")
    if kind == "default":
        return rope
    rope = replace(rope, scaling=kind, factor=configs.positive_number(scaling, "factor"))
    if kind == "linear":
        return rope
    low = configs.positive_number(scaling, "low_freq_factor")
    high = configs.positive_number(scaling, "high_freq_factor")
    if low >= high:
        raise configs.error(f"{name}.low_freq_factor", low, f"less than high_freq_factor, {high}")
    length = configs.positive_int(scaling, "original_max_position_embeddings")
    return replace(rope, low_factor=low, high_factor=high, original_length=length)


def _cap(config: Config, name: str, default: float | None) -> float | None:
    """Returns a soft cap; null is none, and a missing field the default of the family."""
    return configs.optional_number(config, name) if name in config else default
