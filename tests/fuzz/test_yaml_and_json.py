"""The two parsers that everything goes through, at their limits."""

import json

import pytest
import yaml

from fuzz.mutate import _BOMB
from winning_tickets.config.settings import MAX_CHARACTERS, MAX_DEPTH, parse_yaml
from winning_tickets.runs.errors import ContentError, printable, shown
from winning_tickets.runs.files import inside, parse_json, read_json


def test_plain_yaml_is_read_as_before():
    text = "a: 1\nb: [x, 2.5, true, null, 2001-02-03]\nc: &c {d: e}\nf: {<<: *c, g: h}\n"
    tree, value = parse_yaml(text)
    assert value == yaml.safe_load(text)
    assert tree.start_mark.line == 0
    assert [key.value for key, _ in tree.value[-1][1].value] == ["<<", "g"]  # as it was written
    assert parse_yaml("") == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_BOMB, "more than 100,000 values, with all aliases written out"),
        ("a: &a [*a]", "the alias \\*a is inside the value it names"),
        ("a: &a {b: *a}", "the alias \\*a is inside the value it names"),
        ("[" * 65, "nested more than 64 deep"),
        ("- " * 65, "nested more than 64 deep"),
        ("? " * 65, "nested more than 64 deep"),
        ("a: &a " + "[" * 40 + "]" * 40 + "\nb: &b " + "[" * 40 + "*a" + "]" * 40, "with all aliases written out"),
        ("a: !!int b", "'b' is no int"),
        ("a: !!bool b", "'b' is no bool"),
        ("a: !!timestamp b", "'b' is no timestamp"),
        ("a: 2001-99-99", "'2001-99-99' is no timestamp"),
        ("a: " + "9" * 5000, "is no int"),
        ("a: 0x" + "f" * 5000, "is no int"),
        ('a: "\\ud800"', "is no str"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: \x00", "special characters are not allowed"),
        ("x" * (MAX_CHARACTERS + 1), "it has 1,000,001 characters, and at most 1,000,000 are read"),
    ],
)
def test_what_no_yaml_needs_is_refused(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        parse_yaml(text)


def test_the_depth_that_is_allowed():
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)[1] is not None


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
