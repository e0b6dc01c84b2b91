"""Configuration of runs on labelled texts."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from train.config.base import Config, LabelledDataConfig
from train.data.text.length_buckets import usable_lengths
from train.tasks.text.model import PretrainedConfig
from train.validation import ConfigError, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextDataConfig(LabelledDataConfig):
    """The texts and their batches."""

    dataset: str
    """A TFDS set of labelled texts by name, such as glue/sst2, or a TSV file: text, tab, label."""
    batch_size: int = 32
    """Texts per step."""
    test_file: Path | None = None
    """TSV file to test on, if the data set is one; by default a fixed fifth of it."""
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Lengths in tokens that texts are padded to, ascending; longer texts are truncated."""
    train_examples: int | None = None
    """Train on a fixed selection of so many texts; by default on all that are not held out."""
    longest: bool = False
    """Select the longest texts instead of random ones."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        usable_lengths(self.lengths, self.lengths[-1] if self.lengths else 0)
        require(self, "train_examples", lambda value: value is None or value >= 1, "at least 1")
        if self.longest and self.train_examples is None:
            raise ConfigError("--longest is set without --train-examples; set both.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """A run on texts."""

    kind: ClassVar[str] = "text"
    data: TextDataConfig
    model: PretrainedConfig
