"""The registry of modalities: presets, tasks, objectives and test splits of each kind of data."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from train.config.base import Config
from train.tasks.base import Task
from train.tasks.image import presets as image_presets
from train.tasks.image import task as image_task
from train.tasks.image.objective import ImageClassifier
from train.tasks.language import presets as language_presets
from train.tasks.language import task as language_task
from train.tasks.language.objective import LanguageModel
from train.tasks.objective import Classifier
from train.tasks.text import presets as text_presets
from train.tasks.text import task as text_task
from train.tasks.text.objective import TextClassifier


class Modality(NamedTuple):
    """One kind of data.

    Attributes:
      presets: description and configuration by name.
      make_task: returns the task of a configuration.
      objective: class of the classifiers, which `from_metadata` restores.
      read_test_split: `read_test_split(data_spec, data_dir)` returns the test split that the
        metadata of a checkpoint describe.
    """

    presets: Mapping[str, tuple[str, Any]]
    make_task: Callable[[Any], Task]
    objective: type[Classifier]
    read_test_split: Callable[[dict[str, Any], Path | None], Any]


# By `Config.kind`, which config.json and the metadata of checkpoints hold.
MODALITIES: Mapping[str, Modality] = {
    "image": Modality(
        image_presets.PRESETS, image_task.make_task, ImageClassifier, image_task.read_test_split
    ),
    "text": Modality(
        text_presets.PRESETS, text_task.make_task, TextClassifier, text_task.read_test_split
    ),
    "language": Modality(
        language_presets.PRESETS,
        language_task.make_task,
        LanguageModel,
        language_task.read_test_split,
    ),
}


def preset_config(kind: Any, name: Any) -> Config | None:
    """Returns a preset's configuration; None if there is no such preset.

    Args:
      kind: of the data; None, as in runs of earlier versions, searches all kinds.
      name: of the preset.
    """
    if not isinstance(name, str):
        return None
    for own, modality in MODALITIES.items():
        if kind in (None, own) and name in modality.presets:
            return modality.presets[name][1]
    return None
