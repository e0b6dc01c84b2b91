"""Configuration of language-model runs."""

import dataclasses
from typing import ClassVar, Literal

from train.config.base import Config, DataConfig
from train.tasks.language.model import AnyDecoder
from train.validation import ConfigError, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageDataConfig(DataConfig):
    """The text and its batches."""

    dataset: str = "tiny_shakespeare"
    """A UTF-8 text file, or a TFDS set with a text by name, such as tiny_shakespeare."""
    vocabulary: Literal["characters", "pieces", "pretrained"] = "characters"
    """characters: those of the text; pieces: a byte-pair vocabulary learned from the training
    split; pretrained: the model's own."""
    vocab_size: int = 1024
    """Size of the vocabulary of pieces, including the 256 bytes."""
    batch_size: int = 32
    """Windows per step, of --context tokens each."""
    validation: float = 0.05
    """Fraction of the training split held out for validation if the set has no validation split; of
    a file always."""
    test: float = 0.05
    """Likewise for testing."""
    train_tokens: int | None = None
    """Train on so many tokens, from the first; by default on all that are not held out."""
    stride: int | None = None
    """Tokens from one window to the next in evaluation; smaller values give a lower loss and take
    longer. By default half of --context."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "vocab_size", lambda value: value >= 258, "at least 258")
        require(self, "train_tokens", lambda value: value is None or value >= 1, "at least 1")
        require(self, "test", lambda value: 0 < value < 1, "between 0 and 1, both excluded")
        if self.test + self.validation >= 1:
            raise ConfigError(
                f"--validation is {self.validation} and --test {self.test}; expected a sum below "
                "1, so that a training split remains."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig(Config):
    """A run on running text."""

    kind: ClassVar[str] = "language"
    data: LanguageDataConfig
    model: AnyDecoder

    @property
    def stride(self) -> int:
        """Tokens from one window to the next in evaluation."""
        stride, context = self.data.stride, self.model.context
        if stride is None:
            return max(1, context // 2)
        if not 1 <= stride <= context:
            raise ConfigError(f"--stride is {stride}; expected 1 to the --context, {context}.")
        return stride
