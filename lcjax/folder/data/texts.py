"""Texts to calibrate on: lines of a file, fields of JSON lines, or a TFDS set."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from lcjax._messages import printable
from lcjax._optional import import_optional
from lcjax.validation.json_files import parse_json

_TFDS = "tfds:"


def read_texts(source: str, *, field: str = "text", most: int | None = None) -> list[str]:
    """Returns the texts of a source that are not blank.

    Args:
      source: a text file, one text a line; a file *.jsonl of objects, one a line; or
        "tfds:NAME:SPLIT", a set of TensorFlow Datasets that is prepared in TFDS_DATA_DIR.
      field: of the objects or of the set's examples.
      most: number of texts after which reading ends; None reads all.

    Raises:
      OSError: a file that does not exist or cannot be read.
      ValueError: no text, a line that is not UTF-8, not JSON or lacks the field.
      ImportError: tensorflow-datasets is missing.
    """
    if source.startswith(_TFDS):
        found = _of_tfds(source, field)
    elif Path(source).suffix == ".jsonl":
        found = _of_jsonl(Path(source), field)
    else:
        found = (line for _, line in _lines(Path(source)))
    texts = list(islice((text.strip() for text in found if text.strip()), most))
    if not texts:
        raise ValueError(f"{printable(source)}: got no text, expected one text a line at least.")
    return texts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{printable(path)}: no such file; expected a text file, a .jsonl file or "
            "tfds:NAME:SPLIT."
        )
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{printable(path)}, line {number}: got bytes that are not UTF-8, expected "
                    "text; convert the file."
                ) from error


def _of_jsonl(path: Path, field: str) -> Iterator[str]:
    for number, line in _lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            yield _text(parse_json(line, where), field, where)


def _of_tfds(source: str, field: str) -> Iterator[str]:
    name, _, split = source.removeprefix(_TFDS).partition(":")
    root = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not name or not (root / name.partition("/")[0]).is_dir():  # TFDS would try the network
        raise FileNotFoundError(
            f"{printable(source)}: no set {printable(name)} in {root}; expected one that is "
            "prepared there. Set TFDS_DATA_DIR."
        )
    library = import_optional("tensorflow_datasets", f"{source} needs TFDS", "lcjax[train]")
    examples: Iterable[dict] = library.data_source(
        name, split=split or "train", data_dir=root, download=False
    )
    for example in examples:
        yield _text(example, field, source)


def _text(example: object, field: str, where: str) -> str:
    value = example.get(field) if isinstance(example, dict) else None
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        known = printable(", ".join(map(str, example)) if isinstance(example, dict) else "none")
        raise ValueError(
            f"{printable(where)}: got no text in the field {field!r}, expected one of its fields: "
            f"{known[:200]}. Give --text-field."
        )
    return value
