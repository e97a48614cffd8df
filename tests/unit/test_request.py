"""What a caller gives is refused or encoded before anything is sent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.request import build_request
from registry_admin.errors import InvalidValueError


def cycle() -> list:
    loop: list = []
    loop.append(loop)
    return loop


def deep() -> list:
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    return nested


PATHS = [
    "//evil/x", "https://evil/", "http:/evil", "evil", "", "/a/../../admin", "/%2e%2e/admin", "/%252e%252e/admin",
    "/..%2fadmin", "/a/./b", "/..;/admin", "/a\\..\\b", "/%5c%5cevil", "/\x00", "/%00", "/a\r\nX: y", "/a%0d%0aX:%20y",
    "/a?x=%0d%0a", "/\\evil", "/%2f/evil", "/" + "a" * 100_000, "/a b", "/ü", "/#x", "/%zz", "/\u202e", "\t/x", 7, None,
    "/@evil//x", "/\ud800",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path)[:30])
def test_a_path_that_could_leave_its_place_is_refused(path):
    with pytest.raises(InvalidValueError) as caught:
        build_request("api", path)
    assert caught.value.field == "path"


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nY: b"}, {"X": "a\nb"}, {"X": "a\0b"}, {"X\r\nY": "b"}, {"X Y": "b"}, {"": "b"}, {"X:": "b"},
        {"Host": "evil"}, {"host": "evil"}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "0"},
        {"X-Consul-Token": "t"}, {"Connection": "close"}, {"X": 1}, {"X": "\u20ac"}, {"X": "\u00e4"}, {1: "x"},
        ["X"], "X: y", {"A": "1", "a": "2"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_header_that_could_split_or_redirect_a_request_is_refused(headers):
    with pytest.raises(InvalidValueError, match=r"^headers"):
        build_request("api", "/", headers=headers)


@pytest.mark.parametrize(
    "value", [math.nan, [math.inf], cycle(), deep(), {1, 2}, object(), b"x", {"a": "\ud800", (1,): 2}], ids=type
)
def test_what_json_cannot_hold_is_refused_without_showing_it(value):
    with pytest.raises(InvalidValueError) as caught:
        build_request("api", "/", method="POST", json=value)
    assert caught.value.field == "json"


def test_json_is_sent_even_when_it_is_empty():
    assert build_request("api", "/", json={}).body == b"{}"
    assert build_request("api", "/", json=[]).body == b"[]"


@pytest.mark.parametrize("method", ["GET /x", "GET\r\n", "", "CONNECT", "TRACE", "G\u00c9T", 5, None])
def test_a_method_that_is_none_is_refused(method):
    with pytest.raises(InvalidValueError, match=r"^method"):
        build_request("api", "/", method=method)


@pytest.mark.parametrize("service", ["", "a/b", "..", "../../leave", "a?b", "a b", "x" * 10_000, None, "\u202eapi"])
def test_a_name_that_is_none_is_refused(service):
    with pytest.raises(InvalidValueError, match=r"^service"):
        build_request(service, "/")


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "10", True, 1e9])
def test_a_timeout_must_be_a_number_of_seconds(timeout):
    with pytest.raises(InvalidValueError, match=r"^timeout"):
        build_request("api", "/", timeout=timeout)


@pytest.mark.parametrize("tag", ["", "a,b", "a\n", 7])
def test_a_tag_that_is_none_is_refused(tag):
    with pytest.raises(InvalidValueError, match=r"^tag"):
        build_request("api", "/", tag=tag)


def test_json_and_data_together_are_refused():
    with pytest.raises(InvalidValueError, match="not both"):
        build_request("api", "/", json={}, data={})


@pytest.mark.parametrize("data", [5, [1, 2], {"a": {"b": 1}}, {"a": object()}, "\ud800", {"a": "\ud800"}, iter([b"x"])])
def test_data_that_is_no_form_is_refused(data):
    with pytest.raises(InvalidValueError, match=r"^data"):
        build_request("api", "/", method="POST", data=data)


@pytest.mark.parametrize(
    ("data", "body", "kind"),
    [
        ({"title": "Test it", "tags": ["a", "b"], "none": None}, b"title=Test+it&tags=a&tags=b", "form"),
        ([("a", 1), ("a", 2)], b"a=1&a=2", "form"),
        ("plain \u00fc", b"plain \xc3\xbc", None),
        (b"\x00\xff", b"\x00\xff", None),
    ],
)
def test_data_is_a_form_or_raw(data, body, kind):
    request = build_request("api", "/", method="POST", data=data)
    assert request.body == body
    assert ("x-www-form-urlencoded" in request.headers.get("Content-Type", "")) == (kind == "form")


def test_params_are_encoded_and_cannot_leave_the_query():
    request = build_request("api", "/x?a=1", params={"q": "\u00fc /?&=#\r\n", "n": [1, 2.5], "none": None})
    assert request.target == "/x?a=1&q=%C3%BC%20%2F%3F%26%3D%23%0D%0A&n=1&n=2.5"


@pytest.mark.parametrize("params", [5, "a=b", [1], {"a": {}}, {"a": "\ud800"}])
def test_params_that_are_no_pairs_are_refused(params):
    with pytest.raises(InvalidValueError, match=r"^params"):
        build_request("api", "/", params=params)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
def test_whatever_the_params_the_path_stays(params):
    try:
        target = build_request("api", "/x/y", params=params).target
    except InvalidValueError:
        return
    assert target == "/x/y" or target.startswith("/x/y?")
    assert target.isascii()
    assert not set(target) & set(' \r\n\t#\\"<>')


def test_a_callers_own_header_wins_whatever_its_case():
    request = build_request("api", "/", json={}, headers={"content-type": "application/x+json", "ACCEPT": "text/plain"})
    sent = {name.lower(): value for name, value in request.headers.items()}
    assert sent["content-type"] == "application/x+json"
    assert sent["accept"] == "text/plain"


def test_no_secret_is_in_an_error():
    with pytest.raises(InvalidValueError) as caught:
        build_request("api", "/", headers={"Authorization": "Bearer s3cret\n"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InvalidValueError) as caught:
        build_request("api", "/", json={"password": "s3cret", "x": math.nan})
    assert "s3cret" not in str(caught.value)


def test_a_deadline_that_was_handed_on_gives_way_to_that_of_each_attempt():
    request = build_request("api", "/x", headers={"x-request-timeout-ms": "999999", "X-Own": "1"})
    head = request.head("http://10.0.0.1:80", {"X-Request-Timeout-Ms": "7"})
    assert head.lower().count(b"x-request-timeout-ms") == 1
    assert b"X-Request-Timeout-Ms: 7\r\n" in head
    assert b"X-Own: 1\r\n" in head
