"""Text files of unknown origin: UTF-8 with or without a byte-order mark, any line ends."""

import codecs
from pathlib import Path

from lcjax._messages import printable
from lcjax.validation.json_files import read_bounded
from train.data.dataset import DataError

_LARGEST = 2**32  # bytes
_OTHER = {  # the longer mark first: one is a prefix of the other
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: Path, *, largest: int = _LARGEST) -> str:
    """Returns the text of a UTF-8 file without its byte-order mark; lines end in a newline.

    Args:
      path: of the file.
      largest: largest accepted size in bytes.

    Raises:
      DataError: if it cannot be read, is not text, or has another encoding; names it.
    """
    try:
        data = read_bounded(path, largest=largest, error=DataError)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}; expected a UTF-8 file.") from error
    encoding = next((name for mark, name in _OTHER.items() if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        guess = "UTF-16 or UTF-32 without a mark, or not text"
        encoding = guess if b"\0" in data[:4] else "not text: it has zero bytes"
    if encoding is not None:
        raise DataError(
            f"{path} cannot be read: it is {encoding}; expected a UTF-8 file. Save it as UTF-8."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read: {printable(error)}; expected a UTF-8 file. Save it again as "
            "UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
