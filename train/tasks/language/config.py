"""What a run on running text is told beyond what every run is."""

import dataclasses
from typing import ClassVar, Literal

from train.config.base import Config, DataConfig
from train.tasks.language.model import AnyDecoder
from train.validation import ConfigError, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageDataConfig(DataConfig):
    """Which text, and how it is fed."""

    dataset: str = "tiny_shakespeare"
    """A UTF-8 text file, or a TFDS set with a text by name, such as tiny_shakespeare."""
    vocabulary: Literal["characters", "pieces", "pretrained"] = "characters"
    """characters: all that the text has; pieces: a byte-pair vocabulary learned from the training
    split; pretrained: the model's own."""
    vocab_size: int = 1024
    """pieces: how many of them, the 256 bytes among them."""
    batch_size: int = 32
    """Windows a step, of --context tokens each."""
    validation: float = 0.05
    """Part of the training split that is held out for validation, where the set has no such split;
    always of a file."""
    test: float = 0.05
    """Likewise for testing."""
    train_tokens: int | None = None
    """Train on the first so many tokens; by default on all that are not held out."""
    stride: int | None = None
    """Tokens from one window to the next in evaluation, which is the more favourable and the slower
    the smaller it is; by default half of --context."""

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        super().check()
        require(self, "vocab_size", lambda value: value >= 258, "at least 258")
        require(self, "train_tokens", lambda value: value is None or value >= 1, "at least 1")
        require(self, "test", lambda value: 0 < value < 1, "between 0 and 1, both excluded")
        if self.test + self.validation >= 1:
            raise ConfigError(
                f"--validation is {self.validation} and --test {self.test}; wanted less than 1 "
                "together, so that something is left to train on."
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
            raise ConfigError(f"--stride is {stride}; wanted 1 to the --context, {context}.")
        return stride
