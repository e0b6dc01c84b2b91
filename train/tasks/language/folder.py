"""The model of a folder, alone or as a teacher of another with the same tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcjax.folder import load_model
from lcjax.models import Decoder
from train.data.text.tokenizer import FILE
from train.data.text.vocabulary import Pieces
from train.tasks.language.objective import LanguageModel
from train.validation import ConfigError


def is_model_folder(path: Path) -> bool:
    """Returns whether a path is a folder of a model with its tokenizer, and not a run."""
    return (path / FILE).is_file()


def folder_model(path: Path) -> tuple[LanguageModel, Any]:
    """Returns the model of a folder and its variables.

    Its vocabulary may have more rows than the tokenizer has tokens: they are padding.

    Raises:
      ConfigError: a model with fewer rows than tokens, or one that is not a decoder.
      ValueError: a folder that cannot be read.
    """
    vocabulary = Pieces.from_folder(path)
    module, variables = load_model(path)
    if not isinstance(module, Decoder):
        raise ConfigError(
            f"{path} is the folder of a {type(module).__name__}; expected that of a decoder."
        )
    if vocabulary.size > (rows := module.config.vocab_size):
        raise ConfigError(
            f"{path}: {FILE} has {vocabulary.size:,} tokens but the model embeds {rows:,}; "
            "expected the model's own tokenizer."
        )
    return LanguageModel(module), variables


def folder_teacher(path: Path, data_spec: Mapping[str, Any]) -> tuple[LanguageModel, Any]:
    """Returns the model of a folder and its variables, for a student with the same tokenizer.

    Args:
      path: of the folder.
      data_spec: of the student; empty where nothing is to be compared.

    Raises:
      ConfigError: a student with another tokenizer; else as of `folder_model`.
      ValueError: a folder that cannot be read.
    """
    if data_spec and data_spec.get("vocabulary") != Pieces.from_folder(path).digest:
        raise ConfigError(
            f"--teacher is {path}, whose {FILE} differs from the student's; expected the folder "
            "that the student's was made from."
        )
    return folder_model(path)
