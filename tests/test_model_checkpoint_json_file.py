"""JSON of strangers: read within limits, and every wrong value named with what was expected and found."""

import os
from pathlib import Path

import pytest

from model.checkpoint.json_file import JsonObject, parse_json, read_json
from model.errors import CheckpointError

VALUES = JsonObject("x.json", {"n": 3, "x": 0.5, "t": "text", "b": True, "l": [1, 2], "o": {"a": 1}, "z": None})


def refusal(data: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        parse_json(data, "x.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_getters_give_the_values() -> None:
    assert (VALUES.integer("n"), VALUES.number("x"), VALUES.number("n")) == (3, 0.5, 3.0)
    assert (VALUES.text("t"), VALUES.flag("b"), VALUES.integers("l")) == ("text", True, [1, 2])
    assert VALUES.child("o").integer("a") == 1


@pytest.mark.parametrize("key", ["z", "missing"])
def test_default_stands_for_null_and_for_nothing(key: str) -> None:
    assert (VALUES.integer(key, 5), VALUES.number(key, 2.5), VALUES.text(key, "a")) == (5, 2.5, "a")
    assert VALUES.flag(key, False) is False
    assert not VALUES.has(key)


@pytest.mark.parametrize(
    ("getter", "key", "rest"),
    [
        ("integer", "t", "t: expected a whole number, found 'text'"),
        ("integer", "b", "b: expected a whole number, found true"),
        ("integer", "x", "x: expected a whole number, found 0.5"),
        ("integer", "z", "z: expected a whole number, found null"),
        ("integer", "missing", "missing: expected a whole number, found nothing"),
        ("number", "b", "b: expected a number, found true"),
        ("text", "n", "n: expected a text, found 3"),
        ("flag", "n", "n: expected true or false, found 3"),
        ("integers", "o", "o: expected a list, found an object of 1"),
        ("texts", "l", "l: expected a list of texts, found a list of 2"),
        ("children", "l", "l: expected a list of objects, found a list of 2"),
        ("child", "l", "l: expected an object, found a list of 2"),
    ],
)
def test_other_kind_of_value_is_named(getter: str, key: str, rest: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        getattr(VALUES, getter)(key)
    assert str(caught.value) == f"x.json: {rest}"


def test_error_inside_an_object_says_where() -> None:
    with pytest.raises(CheckpointError, match=r"^x\.json: o: a: expected a text, found 1$"):
        VALUES.child("o").text("a")


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400])
def test_number_beyond_floats_is_refused(number: str) -> None:
    with pytest.raises(CheckpointError, match=r"^x\.json: a: expected a (finite )?number, found"):
        parse_json(b'{"a": %s}' % number.encode(), "x.json").number("a")


def test_long_values_are_cut_in_errors() -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_json(b'{"a": "%s"}' % (b"\\n" * 100_000), "x.json").integer("a")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("data", "rest"),
    [
        (b"", "expected JSON, found Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": 1', "expected JSON, found Expecting ',' delimiter: line 1 column 8 (char 7)"),
        (b'{"a": 1, "a": 2}', "expected JSON, found the key a twice"),
        (b'{"a": {"b\\n": 1, "b\\n": 2}}', "expected JSON, found the key 'b\\n' twice"),
        (b'{"a": NaN}', "expected JSON, found NaN, which is no number of JSON"),
        (b'{"a": -Infinity}', "expected JSON, found -Infinity, which is no number of JSON"),
        (b"[1]", "expected a JSON object, found a list of 1"),
        (b"[" * 100_000, "expected JSON, found too many brackets inside one another"),
        (b'{"a":' * 100_000, "expected JSON, found too many brackets inside one another"),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes, rest: str) -> None:
    assert refusal(data) == f"x.json: {rest}"


def test_other_encodings_than_utf8_are_refused() -> None:
    assert refusal('{"a": 1}'.encode("utf-16")).startswith("x.json: expected JSON, found 'utf-8' codec can't decode")


def test_number_of_ten_thousand_digits_is_refused() -> None:
    assert "x.json: expected JSON, found Exceeds the limit" in refusal(b'{"a": %s}' % (b"9" * 10_000))


def test_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": 1}')
    assert read_json(path, 8).values == {"a": 1}
    with pytest.raises(CheckpointError, match=r"^x\.json: expected at most 7 bytes, found more$"):
        read_json(path, 7)


def test_only_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^x\.json: expected a file, found nothing$"):
        read_json(tmp_path / "x.json", 100)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(CheckpointError, match=r"^pipe\.json: expected a file, found something else$"):
        read_json(tmp_path / "pipe.json", 100)
