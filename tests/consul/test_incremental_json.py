"""A reply read again and again gives what the standard library's parser would, and builds only what has changed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul.incremental_json import IncrementalJson


class Made:
    """The value made from an entry."""

    def __init__(self, key, raw):
        self.key, self.raw = key, raw


class Reader:
    """Reader that counts how many were made."""

    def __init__(self, *, keyed, member=""):
        self.made = 0
        self.entries = IncrementalJson(self._make, keyed=keyed, member=member)

    def _make(self, key, raw):
        self.made += 1
        return Made(key, raw)

    def read(self, text):
        return self.entries.read(text)


def shown(values):
    return [(made.key, made.raw) for made in values]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text('ab"\\,{}[]: \n\u00e9\U0001f600', max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text('a"{},', max_size=2), inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.text('ab"\\', max_size=2), JSON, max_size=2)
INDENTS = st.sampled_from([None, 0, 4, "\t"])


@given(st.lists(st.tuples(st.dictionaries(st.text('ab"\\}', max_size=2), OBJECTS, max_size=5), INDENTS), max_size=5))
def test_objects_read_one_after_another_are_what_they_are(replies):
    reader = Reader(keyed=True)
    for reply, indent in replies:
        assert shown(reader.read(json.dumps(reply, indent=indent))) == list(reply.items())


@given(st.lists(st.tuples(st.lists(OBJECTS, max_size=5), INDENTS), max_size=5))
def test_arrays_read_one_after_another_are_what_they_are(replies):
    reader = Reader(keyed=False)
    for reply, indent in replies:
        assert shown(reader.read(json.dumps(reply, indent=indent))) == [("", raw) for raw in reply]


@given(
    st.lists(
        st.tuples(st.dictionaries(st.text("ab", max_size=2), OBJECTS, max_size=5), OBJECTS, OBJECTS, INDENTS),
        max_size=5,
    )
)
def test_objects_in_a_member_read_one_after_another_are_what_they_are(replies):
    reader = Reader(keyed=True, member="Services")
    for entries, before, after, indent in replies:
        text = json.dumps({**before, "Services": entries, **after}, indent=indent)
        assert shown(reader.read(text)) == list(entries.items())


def test_member_that_is_null_has_no_entries():
    reader = Reader(keyed=True, member="Services")
    assert shown(reader.read('{"Services": {"a": {}}}')) == [("a", {})]
    assert reader.read('{"Node": {}, "Services": null, "More": 1}') == ()


def test_entry_of_a_member_is_kept_when_the_others_change():
    reader = Reader(keyed=True, member="Services")
    first = reader.read('{"Node": {"Index": 1}, "Services": {"a": {"n": 1}, "b": {}}}')
    second = reader.read('{"Node": {"Index": 22}, "Services": {"a": {"n": 2}, "b": {}}}')
    assert [made.raw for made in second] == [{"n": 2}, {}]
    assert second[1] is first[1]


@pytest.mark.parametrize(
    "text",
    ["{}", "null", "[]", '{"Node": {}}', '{"Services": {}', '{"Services": {}}x', '{"Services": []}',
     '{"Services": {}, }', '{"Services": {}, 1: 2}', '{"Services": {}, "a"}', '{"Services": {"a": 1}}'],
)  # fmt: skip
def test_text_without_the_member_is_refused(text):
    reader = Reader(keyed=True, member="Services")
    reader.read('{"Services": {"a": {}}}')
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are many
        reader.read(text)


@given(st.text('{}[],:"a1 ', max_size=12) | st.binary(max_size=8).map(lambda raw: raw.decode("latin-1")), st.booleans())
def test_accepted_text_is_json_of_the_right_kind(text, keyed):
    reader = Reader(keyed=keyed)
    reader.read('{"a": {}}' if keyed else "[{}]")
    try:
        values = reader.read(text)
    except ValueError:
        return
    parsed = json.loads(text)
    assert [raw for _, raw in shown(values)] == (list(parsed.values()) if keyed else parsed)


def test_same_reply_is_the_same_tuple_and_nothing_is_made():
    reader = Reader(keyed=True)
    text = json.dumps({"a": {"n": 1}, "b": {"n": 2}})
    first = reader.read(text)
    assert reader.read("".join(text)) is first
    assert reader.made == 2


@pytest.mark.parametrize("indent", [None, 4])
def test_only_what_has_changed_is_made_anew_wherever_it_stands(indent):
    reader = Reader(keyed=True)
    before = {f"k{n}": {"n": n} for n in range(9)}
    first = {made.key: made for made in reader.read(json.dumps(before, indent=indent))}
    after = {"new": {"n": 0}} | before | {"k3": {"n": "changed"}, "last": {"n": 1}}
    del after["k5"]
    after = {"k8": after.pop("k8")} | after  # to the front
    second = {made.key: made for made in reader.read(json.dumps(after, indent=indent))}
    assert {key: made.raw for key, made in second.items()} == after
    assert [key for key in second if first.get(key) is not second[key]] == ["new", "k3", "last"]
    assert reader.made == 9 + 3


def test_reply_that_is_none_leaves_what_was_known():
    reader = Reader(keyed=True)
    first = reader.read('{"a": {}, "b": {}}')
    with pytest.raises(ValueError, match="too early"):
        reader.read('{"a": {}, "b": {}')
    assert reader.read('{"a": {}, "b": {}}') is first


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "[", "null", "[]", '{"a"', '{"a":', '{"a":{}', '{"a":{},', '{"a":{},}', '{"a":{}}x', '{"a":{}}{}',
     "{,}", '{"a":1}', '{"a":null}', '{"a":[]}', "{1:{}}", '{"a" {}}', '{"a":{} "b":{}}', '{"a":' * 100_000,
     "\ufeff{}"],
)  # fmt: skip
def test_text_without_object_of_objects_is_refused(text):
    reader = Reader(keyed=True)
    reader.read('{"a":{}}')
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are many
        reader.read(text)


@pytest.mark.parametrize(
    "text", ["{}", "[1]", "[1,12]", "[null]", "[[]]", '["x"]', "[{}", "[{},]", "[{}]]", "[" * 100_000]
)
def test_text_without_array_of_objects_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        Reader(keyed=False).read(text)
