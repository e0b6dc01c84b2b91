"""A set prepared by TensorFlow Datasets, opened without TensorFlow."""

from pathlib import Path
from typing import Any

from lcjax._messages import printable
from train.data.dataset import DataError
from train.data.tfds.checks import check_prepared


class Prepared:
    """One version of a set, in a directory with its features.json.

    Attributes:
      directory: of the set.
      name: with its version.
      features: by name, as TFDS describes them.
      label: name of the class label; "" if there is none.
      class_names: one per class.
    """

    def __init__(self, directory: Path):
        """Opens the set; reads no example.

        Raises:
          DataError: if its files are damaged, or would make TFDS run other code.
        """
        import tensorflow_datasets as tfds

        check_prepared(directory)
        self.directory = directory
        try:
            self._builder: Any = tfds.builder_from_directory(directory)
            self._builder.info.features.items()
        except Exception as error:  # TFDS raises errors of any type
            raise DataError(
                f"{directory} cannot be read by TFDS: {printable(error, longest=200)}. Prepare the "
                "set again."
            ) from error
        self._splits = self._builder.info.splits
        self.name: str = printable(self._builder.info.full_name, longest=200)
        self.features: Any = self._builder.info.features
        labels = self.named(tfds.features.ClassLabel)
        self.label = "label" if "label" in labels else next(iter(labels), "")
        self.class_names = tuple(self.features[self.label].names) if self.label else ()

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return list(self._splits)

    def named(self, kind: type) -> list[str]:
        """Returns the names of the features of one class."""
        return [name for name in self.features if isinstance(self.features[name], kind)]

    def held_out(self) -> str:
        """Returns the split to test on: the validation split if test labels are withheld.

        Raises:
          DataError: if neither exists with labels.
        """
        for split in ("test", "validation"):
            if split in self._splits and self.source(split, 1)[0][self.label] >= 0:
                return split  # withheld labels are -1
        raise DataError(
            f"{self.directory}: {self.name} has splits {self.splits}; expected a labelled test or "
            "validation split besides train."
        )

    def files(self, split: str) -> list[Path]:
        """Returns the files of a split.

        Raises:
          DataError: if the set refers to files outside its directory.
        """
        try:
            paths = [Path(path) for path in self._splits[split].filepaths]
        except (ValueError, KeyError, IndexError) as error:  # an invalid template
            raise DataError(
                f"{self.directory}: the files of split {printable(split)} cannot be named: "
                f"{printable(error, longest=100)}. Prepare the set again."
            ) from error
        for path in paths:
            if path.parent != Path(self.directory).expanduser():
                raise DataError(
                    f"{self.directory}: split {printable(split)} refers to "
                    f"{printable(path, longest=200)}; expected files in the set's directory. Do "
                    "not use this set."
                )
        return paths

    def source(self, split: str, limit: int | None = None) -> Any:
        """Returns a split's examples by index, with images still encoded.

        Args:
          split: its name.
          limit: number of examples, from the first; by default all.

        Raises:
          DataError: if files are missing, or of a format without random access.
        """
        import tensorflow_datasets as tfds

        missing = [path for path in self.files(split) if not path.is_file()]
        if missing:
            raise DataError(
                f"{printable(missing[0])} does not exist. Prepare {self.name} again with TFDS."
            )
        count = self._splits[split].num_examples
        instruction = f"{split}[:{min(limit, count)}]" if limit else split
        encoded = {name: tfds.decode.SkipDecoding() for name in self.named(tfds.features.Image)}
        try:
            return self._builder.as_data_source(split=instruction, decoders=encoded or None)
        except NotImplementedError as error:
            raise DataError(
                f"{self.directory}: {self.name} is stored as "
                f"{self._builder.info.file_format.value}, which has no random access. Prepare it "
                "again with --file_format array_record."
            ) from error
        except (AssertionError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(
                f"{self.directory}: split {printable(split)} cannot be read: "
                f"{printable(error, longest=200)}. Prepare {self.name} again with TFDS."
            ) from error

    def check_label(self, label: int, split: str) -> int:
        """Returns a label as an int.

        Raises:
          DataError: if it is out of range; names the split.
        """
        if not 0 <= label < len(self.class_names):
            raise DataError(
                f"{self.directory}, split {split}: a label is {label}; expected 0 to "
                f"{len(self.class_names) - 1}, for {len(self.class_names)} classes. Prepare the "
                "set again with TFDS."
            )
        return int(label)


def text_of(value: bytes, prepared: Prepared, split: str) -> str:
    """Returns a text of a set, which TFDS stores in UTF-8.

    Raises:
      DataError: if it is not UTF-8; names the split.
    """
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{prepared.directory}, split {split}: a text is not UTF-8: {error}. Prepare the set "
            "again with TFDS."
        ) from error
