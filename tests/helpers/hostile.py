"""Malformed and malicious files, and the JSON that every reader has to refuse."""

import json
import os

DEEP = "[" * 100_000 + "]" * 100_000

# Refused by every reader of JSON.
NO_JSON = {
    "empty": b"",
    "a space": b" ",
    "binary": bytes(range(256)),
    "zeros": bytes(100),
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "latin-1": '{"é": 1}'.encode("latin-1"),
    "truncated": b'{"a": [1, 2',
    "two values": b"{} {}",
    "deep list": DEEP.encode(),
    "deep object": ('{"a":' * 100_000 + "1" + "}" * 100_000).encode(),
    "one key twice": b'{"a": 1, "a": 2}',
    "overflow": b'{"a": 1e999}',
    "many digits": b'{"a": ' + b"9" * 10_000 + b"}",
    "single quotes": b"{'a': 1}",
    "comment": b'{"a": 1} // and more',
    "control character": b'{"a": "\x1b[31m"}',
    "nan": b'{"a": NaN}',
    "minus infinity": b'{"a": -Infinity}',
}
NO_OBJECT = {
    "null": b"null",
    "list": b"[]",
    "string": b'"text"',
    "number": b"1",
    "true": b"true",
}
WRONG = {
    "null": None,
    "true": True,
    "number": 4,
    "huge": 10**30,
    "negative": -1,
    "fraction": 0.5,
    "string": "\x1b[31mred\n",
    "list": [[]],
    "object": {"a": {}},
}


def sparse(path, size=2**33):
    """Writes a sparse file: gigabytes long, with no blocks on disk."""
    with open(path, "wb") as file:
        file.truncate(size)


def pipe(path):
    """Replaces a file by a named pipe without a writer; reading it would block."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def at(value, keys, wrong):
    """Returns JSON with the value under these keys replaced; removed if `wrong` is `...`."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in keys[:-1]:
        inner = inner[key]
    if wrong is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = wrong
    return copy


def safe(text):
    """Asserts that a message has no control characters except newlines."""
    assert all(one.isprintable() or one == "\n" for one in str(text)), repr(str(text))
