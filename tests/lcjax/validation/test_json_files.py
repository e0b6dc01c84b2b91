"""JSON of any origin: bounded, strict, and one error that names the file."""

import json

import pytest

from lcjax._messages import printable, printable_lines
from lcjax.validation.json_files import parse_json, read_bounded, read_json
from tests.helpers.hostile import NO_JSON, NO_OBJECT, pipe, safe, sparse


class Wrong(ValueError):
    pass


@pytest.mark.parametrize("name", [*NO_JSON, *NO_OBJECT])
def test_what_is_not_a_json_object_is_one_error(name, tmp_path):
    path = tmp_path / "a\x1b.json"
    path.write_bytes((NO_JSON | NO_OBJECT)[name])
    with pytest.raises(Wrong, match=r"a\\x1b.json") as error:
        read_json(path, error=Wrong)
    safe(error.value)


def test_a_byte_order_mark_is_left_out(tmp_path):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, "x", null, true]}')
    assert read_json(tmp_path / "a") == {"a": [1, 2.5, "x", None, True]}


def test_nan_is_read_where_a_program_writes_it():
    assert str(parse_json("[NaN, -Infinity]", "x", allow_nan=True)) == "[nan, -inf]"
    with pytest.raises(ValueError, match="x is not valid JSON: it holds NaN"):
        parse_json("NaN", "x")


def test_brackets_in_strings_are_not_depth():
    text = json.dumps({"a": "[" * 1000, 'b\\"[': '\\"' + "{" * 1000})
    assert parse_json(text, "x") == json.loads(text)


def test_only_regular_files_of_a_size_are_opened(tmp_path):
    sparse(tmp_path / "large")
    with pytest.raises(Wrong, match="has 8,589,934,592 bytes; expected at most 16,777,216"):
        read_json(tmp_path / "large", error=Wrong)
    pipe(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path.joinpath("/dev/zero")):
        with pytest.raises(Wrong, match="is not a regular file"):
            read_bounded(path, error=Wrong)
    with pytest.raises(Wrong, match="is not a file name"):
        read_bounded(tmp_path / "a\0b", error=Wrong)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none")


def test_control_characters_are_escaped():
    assert printable("a\x1b[31m\n\u202eé\ud800") == r"a\x1b[31m\n\u202eé\ud800"
    assert printable("abc", longest=2) == "ab..."
    assert printable_lines("a\tb\nc\r\x9b") == "a\tb\nc\\r\\x9b"
