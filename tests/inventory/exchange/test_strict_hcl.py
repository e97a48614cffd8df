"""HCL is read as Consul's agents take it, with lines, and within the limits."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.inventory.exchange import DocumentError, strict_hcl
from registry_admin.inventory.exchange.strict_hcl import is_hcl, parse_hcl
from registry_admin.inventory.exchange.strict_yaml import line_of


def error(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        parse_hcl(text)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a = "x"\nb = 1\nc = -2.5\nd = true\ne = null', {"a": "x", "b": 1, "c": -2.5, "d": True, "e": None}),
        ('service {\n  name = "web"\n}', {"service": {"name": "web"}}),
        ('service = {\n  name = "web"\n}', {"service": {"name": "web"}}),
        ('service { name = "web" port = 80 }', {"service": {"name": "web", "port": 80}}),
        ('"service" { "name" = "web", }', {"service": {"name": "web"}}),
        ('s { n = "a" }\ns { n = "b" }\ns { n = "c" }', {"s": [{"n": "a"}, {"n": "b"}, {"n": "c"}]}),
        ('services = [ { name = "a" }, { name = "b" }, ]', {"services": [{"name": "a"}, {"name": "b"}]}),
        ('tags = [\n  "a", # one\n  "b", // two\n]', {"tags": ["a", "b"]}),
        ("/* a\n b */ a = 1 /**/", {"a": 1}),
        ('meta { "k-1" = "v" k_2 = "w" }', {"meta": {"k-1": "v", "k_2": "w"}}),
        ('meta = { k: "v" }', {"meta": {"k": "v"}}),
        ('a = "\\"\\\\\\n\\u00e9 é # // {"', {"a": '"\\\né é # // {'}),
        ("a = <<EOF\nx\n  y\nEOF\nb = 1", {"a": "x\n  y\n", "b": 1}),
        ("a = <<-EOF\n    x\n      y\n    EOF\nb = 1", {"a": "x\n  y\n", "b": 1}),
        ('service "web" "x" { port = 1 }', {"service": {"web": {"x": {"port": 1}}}}),
        ("", {}),
    ],
)
def test_parse_hcl_returns_the_data(text, expected):
    assert parse_hcl(text) == expected


def test_parse_hcl_knows_the_lines():
    data = parse_hcl('# c\nservice {\n  name = "a"\n\n  check {\n    http = "x"\n  }\n}\n')
    assert line_of(data["service"], "name") == 3
    assert line_of(data["service"]["check"], "http") == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\na = 2", "line 2: the key 'a' is there twice"),
        ("a = 1\na { }", "line 2: the key 'a' is there twice"),
        ("a { }\na = 1", "line 2: the key 'a' is there twice"),
        ('service {\n  name = "web"\n', "line 3: it is no HCL: a key or '}' is missing; the document ends"),
        ("a = [1, 2", "it is no HCL: ',' or ']' is missing"),
        ("a = [1 2]", "it is no HCL: ',' or ']' is missing"),
        ("a =", "it is no HCL: a value is missing"),
        ("a b = 1", "it is no HCL: '=' or '{' is missing"),
        ("}", "it is no HCL: a key or '}' is missing; found '}'"),
        ('a = "x', "it is no HCL"),
        ('a = "x\ny"', "it is no HCL"),
        ("a = 08080", "line 1: it is no HCL"),
        ('a = "\\x"', "line 1: it is no HCL"),
        ("a = <<EOF\nx\n", "the text that EOF ends has no end"),
        ('a = "${upper(x)}"', "line 1: \"${upper(x)}\": expressions aren't taken"),
        ("a = var.x", "line 1: 'var.x': expressions aren't taken"),
        ('a = file("/etc/passwd")', "line 1: 'file': expressions aren't taken"),
        ("a = 1 + 2", "it is no HCL"),
        ("/* never closed", "it is no HCL"),
        ("a = \x00", "line 1: it is no HCL: it holds NUL"),
        (f"a = {'9' * 5000}", "it is no HCL"),
        ("a = " + "[" * 100_000, "line 1: it is nested too deeply: more than 12 levels"),
        ("a {" * 100_000, "line 1: it is nested too deeply"),
        ('a ' + '"x" ' * 100_000 + "{}", "line 1: it is nested too deeply"),
    ],
)  # fmt: skip
def test_parse_hcl_refuses(text, expected):
    assert expected in error(text)


def test_parse_hcl_stops_at_the_limit_of_values(monkeypatch):
    monkeypatch.setattr(strict_hcl, "MAX_VALUES", 100)
    assert len(parse_hcl(f"a = [{', '.join('1' * 99)}]")["a"]) == 99
    assert "line 2: it has more than" in error(f"a = \n[{', '.join('1' * 100)} never read")
    assert "it has more than" in error("a { }\n" * 101)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("service {", True), ("# c\n\nservices = [", True), ('// c\nservice "x" {', True), ("/* c */ a = 1", True),
        ('"service" = {', True), ('node_name = "n1"', True),
        ("service:\n  name: a = b", False), ("format: 1", False), ("- a", False), ("", False), ("just words", False),
        ('{"a": 1}', False), ("services: {a: 1}", False),
    ],
)  # fmt: skip
def test_is_hcl_tells_it_from_yaml(text, expected):
    assert is_hcl(text) is expected


@given(st.text(max_size=60) | st.text('{}[]="a,:1 \n#<-\\$', max_size=60))
def test_parse_hcl_of_anything_returns_or_raises_a_document_error(text):
    with suppress(DocumentError):
        assert isinstance(parse_hcl(text), dict)


scalars = st.integers(-(10**9), 10**9) | st.booleans() | st.none() | st.text().filter(lambda text: "{" not in text)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), scalars | st.lists(scalars), max_size=5))
def test_parse_hcl_of_written_values_returns_them(data):
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in data.items())
    assert parse_hcl(text) == data
