"""YAML is read strictly, with lines, and within the limits."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.inventory.exchange import DocumentError, strict_yaml
from registry_admin.inventory.exchange.formats import OWN_FORMATS
from registry_admin.inventory.exchange.strict_yaml import line_of, parse_yaml


def error(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text)
    (problem,) = caught.value.problems
    return str(problem)


def test_parse_yaml_returns_the_data_with_lines():
    data = parse_yaml("a: 1\nb:\n  - c: x\n    d: [yes, null, '1', 2.5, 2024-01-01]\n")
    assert data == {"a": 1, "b": [{"c": "x", "d": [True, None, "1", 2.5, "2024-01-01"]}]}
    assert (line_of(data, "b"), line_of(data["b"][0]), line_of(data["b"][0], "d"), line_of([1])) == (2, 3, 4, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", "line 2: the key 'a' is there twice"),
        ("a: &x [1]", "line 1: anchors and aliases"),
        ("a: *x", "line 1: anchors and aliases"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "line 1: anchors and aliases"),
        ("a: !!python/object/apply:os.system [x]", "line 1: tags"),
        ("a: !!str x", "line 1: tags"),
        ("? [a]\n: b", "line 1: keys must be words"),
        ("? {a: b}\n: c", "line 1: keys must be words"),
        ("a: 1\n---\nb: 2", "line 2: it holds several documents"),
        ("a: [1", "line 2: it is no YAML"),
        ("a: \x01", "it is no YAML"),
        ("a: 010", "line 1: '010' can be read in several ways"),
        ("a: 08080", "line 1: '08080' can be read in several ways"),
        ("a: 8_080", "line 1: '8_080' can be read in several ways"),
        ("a: 0x1F", "line 1: '0x1F' can be read in several ways"),
        ("a: 1:30", "line 1: '1:30' can be read in several ways"),
        ("a: .inf", "line 1: '.inf' can be read in several ways"),
        (f"a: {'9' * 5000}", "can be read in several ways"),
        ("[" * 100_000, "line 1: it is nested too deeply: more than 12 levels"),
        ("- " * 100_000, "line 1: it is nested too deeply"),
    ],
)
def test_parse_yaml_refuses(text, expected):
    assert expected in error(text)


def test_parse_yaml_stops_at_the_limit_of_values(monkeypatch):
    monkeypatch.setattr(strict_yaml, "MAX_VALUES", 100)
    assert len(parse_yaml(f"[{', '.join('a' * 99)}]")) == 99
    assert "line 2: it has more than" in error(f"x:\n  [{', '.join('a' * 200)}\nnever: [read")


values = st.text() | st.integers(-(10**18), 10**18) | st.booleans()


@given(st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6))
def test_parse_yaml_of_what_we_write_returns_the_same(data):
    text = OWN_FORMATS["yaml"].dump(data)
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        assert "it is no YAML" in error(text)  # control characters that no YAML holds
    else:
        assert parse_yaml(text) == data
