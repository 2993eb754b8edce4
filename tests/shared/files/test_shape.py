"""JSON of others: bounds within which it is read, and forms whose first misfit is named by its path."""

import json
import math

import pytest

from shared.errors import StoreError
from shared.files.fs import read_json, read_object
from shared.files.shape import DEEPEST, LONGEST, PLAIN, Count, Maybe, Named, Text, misfit, parse


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    "data, why",
    [
        (nested(DEEPEST + 1), "nested too deeply"),
        (nested(100_000), "nested too deeply"),
        (b'{"a": "\\ud800"}', "half of a character in it"),
        (b'{"\\udfff": 1}', "half of a character in it"),
        (b"\xff", "utf-8"),
        (b"", "Expecting value"),
        (b"9" * 5000, "integer string conversion"),
        (b"[NaN]", "holds NaN"),
        (b"[1e999]", "Out of range"),
    ],
)
def test_what_could_not_be_written_again_is_one_line_with_the_next_step(tmp_path, data, why):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    for read in (lambda: read_json(path, hint="make it anew"), lambda: parse(data, str(path), hint="make it anew")):
        with pytest.raises(StoreError, match=rf"a\.json: not valid JSON \(.*{why}.*\); make it anew$") as error:
            read()
        assert "\n" not in str(error.value)


def test_within_the_bounds_everything_is_read_as_it_is():
    value = {"a": [1, 2.5, None, True, {"b": "naïve 🙂"}], "": 10**300}
    assert parse(json.dumps(value).encode(), "x") == value
    assert parse(nested(DEEPEST), "x")
    assert parse(b'"\\ud83d\\ude42"', "x") == "🙂"  # two halves are a character


def test_others_may_have_numbers_that_are_none():
    assert parse(b"[Infinity, -Infinity, 1e999]", "x", foreign=True) == [math.inf, -math.inf, math.inf]
    with pytest.raises(StoreError, match="nested too deeply"):
        parse(nested(DEEPEST + 1), "x", foreign=True)


def test_a_file_that_has_to_hold_an_object(tmp_path):
    with pytest.raises(StoreError, match=r"none\.json: is no file; make it anew"):
        read_object(tmp_path / "none.json", hint="make it anew")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(StoreError, match=r"a\.json: expected an object with named values; make it anew"):
        read_object(tmp_path / "a.json", hint="make it anew")


LONG = "x" * (LONGEST + 1)


@pytest.mark.parametrize(
    "value, form, says",
    [
        ("x" * LONGEST, Text(), None),
        (LONG, Text(), "it is text, expected text of at most 4096 characters"),
        ({"a": {"b": LONG}}, {"a": Named(Text())}, "a.b is text, expected text of at most 4096 characters"),
        ({LONG: 1}, Named(int), "it has more than 4096 names, or one of more than 4096 characters"),
        ({"a": 1, "b": 2}, Named(int, 1), "it has more than 1 names, or one of more than 4096 characters"),
        ({"a": {"b": [1]}}, {"a": (Named([str]), None)}, "a.b.0 is a whole number (1), expected text"),
        ({"a": "x"}, {"a": (Named([str]), None)}, "a is text, expected an object or null"),
        ({"a": None}, {"a": (Named([str]), None)}, None),
        ({}, {"a": Maybe(int)}, None),
        ({}, {"a": int}, "a is missing"),
        ([1], [Count(2)], "0 is a whole number (1), expected a whole number from 2 on"),
        (1e308, (float, None), "it is a number (1e+308), expected a number of at most 1e300 or null"),
        ({"a": [None, True, -1.5, {"b": "x"}, []]}, PLAIN, None),
        ({"a": [{"b": LONG}]}, PLAIN, "a.0.b is text, expected null or true or false or a number"),
        ({"a": 10**400}, PLAIN, "a is a whole number, expected"),
    ],
)
def test_the_first_misfit_is_named_by_its_path(value, form, says):
    found = misfit(value, form)
    assert found is None if says is None else found is not None and found.startswith(says)
