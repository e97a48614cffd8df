"""JSON is read strictly and within the limits."""

from __future__ import annotations

import pytest

from registry_admin.inventory.exchange import DocumentError
from registry_admin.inventory.exchange.limits import MAX_VALUES
from registry_admin.inventory.exchange.strict_json import parse_json


def error(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        parse_json(text)
    (problem,) = caught.value.problems
    return str(problem)


def test_parse_json_returns_the_data():
    text = '{"a": [1, "x, [y] \\" {", 1.5, null, true], "b": {}}'
    assert parse_json(text) == {"a": [1, 'x, [y] " {', 1.5, None, True], "b": {}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, "b": {"a": 1, "a": 2}}', "document: the key 'a' is there twice in one mapping"),
        ('{"a": NaN}', "document: NaN is no JSON"),
        ('{"a": -Infinity}', "document: -Infinity is no JSON"),
        ('{"a":\n\n1', "line 3: it is no JSON"),
        ('{"a": 1} {"b": 2}', "line 1: it is no JSON: Extra data"),
        (f'{{"a": {"9" * 5000}}}', "is too large a number"),
        ('{"a": "\x00"}', "line 1: it is no JSON: Invalid control character"),
        ("[" * 13 + "]" * 13, "document: it is nested too deeply: more than 12 levels"),
        ('{"a":' * 100_000, "document: it is nested too deeply"),
        ("[" + "[]," * MAX_VALUES + "1]", "document: it has more than 1,000,000 values: divide it"),
        ("[" + "1," * MAX_VALUES + "1]", "document: it has more than 1,000,000 values: divide it"),
        ("[1, 2", "line 1: it is no JSON"),
    ],
)
def test_parse_json_refuses(text, expected):
    assert expected in error(text)


def test_parse_json_repeated_key_at_the_end_of_many_is_found():
    keys = ", ".join(f'"key{number}": 1' for number in range(30_000))
    assert "the key 'key29999' is there twice" in error(f'{{{keys}, "key29999": 1}}')


def test_parse_json_text_full_of_commas_is_one_value():
    assert parse_json(f'["{"," * (MAX_VALUES + 1)}"]') == ["," * (MAX_VALUES + 1)]


def test_parse_json_text_without_an_end_is_looked_at_once():
    unended = '{"services": ["' + r"\"" * 200_000
    with pytest.raises(DocumentError, match="it is no JSON"):
        parse_json(unended)
