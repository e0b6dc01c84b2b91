"""Checks the files of a prepared set, whose origin is unknown, before TFDS reads them.

TFDS imports the Python module that features.json names, and joins names in it to paths.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcjax._messages import printable
from lcjax.validation.json_files import read_bounded, read_json
from train.data.dataset import DataError

FEATURES, INFO = "features.json", "dataset_info.json"
_PACKAGE = "tensorflow_datasets.core.features."
# TFDS's own classes, which import no modules but TFDS's.
_CLASSES = frozenset(
    _PACKAGE + name
    for name in (
        "audio_feature.Audio",
        "bounding_boxes.BBoxFeature",
        "class_label_feature.ClassLabel",
        "dataset_feature.Dataset",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "labeled_image.LabeledImage",
        "scalar.Scalar",
        "sequence_feature.Sequence",
        "tensor_feature.Tensor",
        "text_feature.Text",
        "translation_feature.Translation",
        "translation_feature.TranslationVariableLanguages",
        "video_feature.Video",
    )
)
_NAMING = ("pythonClassName", "python_class_name", "type")  # the last in sets of older TFDS
_COUNTING = ("numClasses", "num_classes")
_OWN_CODE = ("jsonFeature", "json_feature")  # used by classes that are not TFDS's
_MOST_CLASSES = 10**6


def check_prepared(directory: Path) -> None:
    """Raises unless TFDS may read the files of a prepared set.

    Args:
      directory: of one version of the set.

    Raises:
      DataError: if features.json names a class that is not TFDS's, so that reading it would import
        and run other code; or if a file is too large, damaged, or refers to another directory.
    """
    features = _read(directory / FEATURES)
    for key, value in _entries(features):
        if key in _OWN_CODE or (key in _NAMING and isinstance(value, str)):
            if not isinstance(value, str) or value not in _CLASSES:
                shown = printable(repr(value), longest=80)
                raise DataError(
                    f"{directory / FEATURES} names the class {shown}, whose module TFDS would "
                    "import and run; expected one of TFDS's own features. Prepare the set again "
                    "with features of tfds.features."
                )
        elif key in _COUNTING and not _is_count(value):
            raise DataError(
                f"{directory / FEATURES}: {key} is {printable(repr(value), longest=40)}; expected 1"
                f" to {_MOST_CLASSES:,}. Prepare the set again."
            )
        elif "/" in key or "\\" in key or not key.isprintable() or key in ("", ".", ".."):
            raise DataError(
                f"{directory / FEATURES}: a feature is called {printable(repr(key), longest=60)}; "
                "expected a name without a slash, since files are named after it. Prepare it again."
            )
    splits = _read(directory / INFO).get("splits", [])
    if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
        raise DataError(f"{directory / INFO}: splits is not a list of objects. Prepare it again.")
    for labels in directory.glob("*.labels.txt"):
        read_bounded(labels, error=DataError)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a prepared set. Prepare it again.")
    return read_json(path, error=DataError)


def _entries(found: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(found, dict):
        for key, value in found.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(found, list):
        for value in found:
            yield from _entries(value)


def _is_count(value: Any) -> bool:
    text = str(value)
    return text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MOST_CLASSES
