"""The parser of JSON that everything goes through, at its limits."""

import json

import pytest

from winning_tickets.runs.errors import ContentError, printable, shown
from winning_tickets.runs.files import inside, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("9" * 5000, "number out of range"),
        ('"\\ud800"', "hex escape"),
        ('{"\\udc00": 1}', "hex escape"),
        ("", "EOF while parsing"),
    ],
)
def test_what_no_json_needs_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        "-1E+400",
        "1" * 400 + ".0",
        "1" * 400,
        "1" * 250 + "e99",
        "9" * 210 + ".5E+99",
    ],
)
def test_numbers_that_are_not_finite_are_refused_where_that_is_asked_for(text):
    parse_json(text)
    with pytest.raises(ValueError, match="expected value|invalid number|beyond the range of floats"):
        parse_json(text, finite=True)


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5e-300, None, "\U0001f600 ü"]}, "[" * 100, [[[]]] * 1000, 10**299, 1e299, 1e-320, [{}] * 65]
)
def test_json_of_ours_is_read_as_before(value):
    text = json.dumps(value)
    assert parse_json(text, finite=True) == value == json.loads(text)


def test_the_depth_of_json_that_is_allowed():
    assert parse_json("[" * 64 + "]" * 64) is not None


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(ContentError, match="The result .* cannot be read: Is a directory"):
        read_json(tmp_path, "result")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "", "a\0b", "..\\x", "/", "x" * 256])
def test_names_that_lead_out_of_a_folder(tmp_path, name):
    with pytest.raises(ContentError, match="only files in its own folder may be named"):
        inside(tmp_path, name)


def test_names_inside_a_folder(tmp_path):
    assert inside(tmp_path, "tasks/rte/head.safetensors") == tmp_path / "tasks" / "rte" / "head.safetensors"


@pytest.mark.parametrize(
    "value", ["x" * 10**6, list(range(10**5)), {i: i for i in range(1000)}, [[[[[[1]]]]]], 10**4000]
)
def test_values_in_messages_are_short(value):
    assert len(shown(value)) < 200


def test_values_in_messages_are_as_python_writes_them():
    assert shown("a") == "'a'"
    assert shown({"b": [1, None]}) == "{'b': [1, None]}"
    assert shown(0.25) == "0.25"


def test_a_message_does_not_steer_the_terminal():
    assert printable("a\x1b[2Jb\r\x00\x9b\n\tü") == "a\\x1b[2Jb\\r\\x00\\x9b\\n\\tü"
