"""Presets of `python -m train.language PRESET`."""

import dataclasses

from train.config.base import OptimizerConfig, PenaltyConfig
from train.config.protocol import FitHealConfig, PenaltyProtocolConfig
from train.tasks.language.config import LanguageConfig, LanguageDataConfig
from train.tasks.language.model import AnyDecoder, DecoderConfig, PretrainedDecoderConfig

_CHARACTERS = LanguageDataConfig(batch_size=8)
_PIECES = LanguageDataConfig(vocabulary="pieces", batch_size=8)
_SMALL = DecoderConfig(depth=4, width=128, num_heads=4, mlp_hidden=512, context=128)
_GATED = dataclasses.replace(_SMALL, mlp_hidden=344, glu=True, activation="silu")
_OPTIMIZER = OptimizerConfig(epochs=3, learning_rate=3e-3, weight_decay=0.1, clip_norm=1.0)
# Train, collapse the sites that cost least, then heal with the deep model as teacher: the best
# recipe on the validation split in benchmarks/language.py.
_FIT_HEAL = FitHealConfig(
    sequential=True,
    count=2,
    heal_epochs=1,
    deep_teacher=True,
    calibration_images=512,
)
_PRESETS: dict[str, tuple[str, LanguageDataConfig, AnyDecoder, OptimizerConfig, FitHealConfig]] = {
    "shakespeare-small": (
        "Characters of tiny_shakespeare, 0.8 million parameters, three minutes on two cores.",
        _CHARACTERS,
        _SMALL,
        _OPTIMIZER,
        _FIT_HEAL,
    ),
    "shakespeare-swiglu": (
        "The same with gated MLPs and as many parameters.",
        _CHARACTERS,
        _GATED,
        _OPTIMIZER,
        _FIT_HEAL,
    ),
    "shakespeare-pieces": (
        "A byte-pair vocabulary of 1,024 pieces, learned from tiny_shakespeare.",
        _PIECES,
        _SMALL,
        _OPTIMIZER,
        _FIT_HEAL,
    ),
    "gpt2": (
        "Pretrained GPT-2 (124M) on tiny_shakespeare, for one accelerator; --pretrained FOLDER "
        "loads a local copy or a larger model.",
        LanguageDataConfig(vocabulary="pretrained", batch_size=8),
        PretrainedDecoderConfig(pretrained="openai-community/gpt2", context=1024),
        OptimizerConfig(epochs=2, learning_rate=5e-5, weight_decay=0.01, clip_norm=1.0),
        _FIT_HEAL,
    ),
}

PRESETS = {
    name: (
        about,
        LanguageConfig(
            preset=name,
            data=data,
            model=model,
            optimizer=optimizer,
            penalty=PenaltyConfig(strength=0.01, slope_learning_rate=0.1),
            protocol=protocol,
        ),
    )
    for name, (about, data, model, optimizer, protocol) in _PRESETS.items()
}
PRESETS["folder"] = (
    "A model folder, such as lcjax collapse-model writes; --teacher FOLDER is that of its deep "
    "model.",
    LanguageConfig(
        preset="folder",
        data=LanguageDataConfig(vocabulary="pretrained", batch_size=8),
        model=PretrainedDecoderConfig(pretrained="", context=128, dropout=0.0),
        optimizer=OptimizerConfig(epochs=1, learning_rate=1e-4, weight_decay=0.01, clip_norm=1.0),
        penalty=PenaltyConfig(strength=0.0, slope_learning_rate=0.0),
        protocol=PenaltyProtocolConfig(),
    ),
)
