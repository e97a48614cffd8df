"""Requests: arguments are refused or encoded before anything is sent."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.http.request import build_request, is_repeatable
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
def test_path_that_could_leave_the_service_is_refused(path):
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
def test_header_that_could_split_or_redirect_a_request_is_refused(headers):
    with pytest.raises(InvalidValueError, match=r"^headers"):
        build_request("api", "/", headers=headers)


@pytest.mark.parametrize(
    "value", [math.nan, [math.inf], cycle(), deep(), {1, 2}, object(), b"x", {"a": "\ud800", (1,): 2}], ids=type
)
def test_json_argument_that_json_cannot_hold_is_refused(value):
    with pytest.raises(InvalidValueError) as caught:
        build_request("api", "/", method="POST", json=value)
    assert caught.value.field == "json"


def test_json_argument_that_is_empty_is_sent():
    assert build_request("api", "/", json={}).body == b"{}"
    assert build_request("api", "/", json=[]).body == b"[]"


@pytest.mark.parametrize("method", ["GET /x", "GET\r\n", "", "CONNECT", "TRACE", "G\u00c9T", 5, None])
def test_unknown_method_is_refused(method):
    with pytest.raises(InvalidValueError, match=r"^method"):
        build_request("api", "/", method=method)


@pytest.mark.parametrize("service", ["", "a/b", "..", "../../leave", "a?b", "a b", "x" * 10_000, None, "\u202eapi"])
def test_malformed_service_name_is_refused(service):
    with pytest.raises(InvalidValueError, match=r"^service"):
        build_request(service, "/")


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "10", True, 1e9])
def test_timeout_that_is_no_number_of_seconds_is_refused(timeout):
    with pytest.raises(InvalidValueError, match=r"^timeout"):
        build_request("api", "/", timeout=timeout)


@pytest.mark.parametrize("tag", ["", "a\u200bb", "a\n", 7])
def test_malformed_tag_is_refused(tag):
    with pytest.raises(InvalidValueError, match=r"^tag"):
        build_request("api", "/", tag=tag)


def test_json_and_data_together_are_refused():
    with pytest.raises(InvalidValueError, match="not both"):
        build_request("api", "/", json={}, data={})


@pytest.mark.parametrize("data", [5, [1, 2], {"a": {"b": 1}}, {"a": object()}, "\ud800", {"a": "\ud800"}, iter([b"x"])])
def test_data_argument_that_is_no_form_is_refused(data):
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
def test_data_argument_is_sent_as_a_form_or_raw(data, body, kind):
    request = build_request("api", "/", method="POST", data=data)
    assert request.body == body
    assert ("x-www-form-urlencoded" in request.headers.get("Content-Type", "")) == (kind == "form")


def test_params_are_encoded_within_the_query():
    request = build_request("api", "/x?a=1", params={"q": "\u00fc /?&=#\r\n", "n": [1, 2.5], "none": None})
    assert request.target == "/x?a=1&q=%C3%BC%20%2F%3F%26%3D%23%0D%0A&n=1&n=2.5"


@pytest.mark.parametrize("params", [5, "a=b", [1], {"a": {}}, {"a": "\ud800"}])
def test_params_without_pairs_are_refused(params):
    with pytest.raises(InvalidValueError, match=r"^params"):
        build_request("api", "/", params=params)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
def test_params_of_any_text_leave_the_path_unchanged(params):
    try:
        target = build_request("api", "/x/y", params=params).target
    except InvalidValueError:
        return
    assert target == "/x/y" or target.startswith("/x/y?")
    assert target.isascii()
    assert not set(target) & set(' \r\n\t#\\"<>')


def test_header_of_the_caller_wins_in_any_case():
    request = build_request("api", "/", json={}, headers={"content-type": "application/x+json", "ACCEPT": "text/plain"})
    sent = {name.lower(): value for name, value in request.headers.items()}
    assert sent["content-type"] == "application/x+json"
    assert sent["accept"] == "text/plain"


def test_error_of_a_refused_argument_shows_no_secret():
    with pytest.raises(InvalidValueError) as caught:
        build_request("api", "/", headers={"Authorization": "Bearer s3cret\n"})
    assert str(caught.value).startswith("headers")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InvalidValueError) as caught:
        # pragma: allowlist nextline secret - only for tests
        build_request("api", "/", json={"password": "s3cret", "x": math.nan})
    assert str(caught.value).startswith("json")
    assert "s3cret" not in str(caught.value)


def test_timeout_header_of_the_caller_is_replaced_by_that_of_the_attempt():
    request = build_request("api", "/x", headers={"x-request-timeout-ms": "999999", "X-Own": "1"})
    head = request.encode_head("http://10.0.0.1:80", {"X-Request-Timeout-Ms": "7"})
    assert head.lower().count(b"x-request-timeout-ms") == 1
    assert b"X-Request-Timeout-Ms: 7\r\n" in head
    assert b"X-Own: 1\r\n" in head


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_idempotent_method_is_repeatable(method):
    assert is_repeatable(method, {})


@pytest.mark.parametrize("method", ["POST", "PATCH", "PROPFIND"])
def test_other_method_is_repeatable_only_with_an_idempotency_key(method):
    assert not is_repeatable(method, {})
    assert is_repeatable(method, {"idempotency-key": "4711"})
    assert build_request("api", "/", method=method, headers={"Idempotency-Key": "4711"}).repeatable


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), "2026-01-02T03%3A04%3A00%2B00%3A00"),
        (Decimal("1.10"), "1.10"),
    ],
)
def test_params_may_be_uuids_dates_and_decimals(value, sent):
    assert build_request("api", "/", params={"q": value}).target == f"/?q={sent}"


@pytest.mark.parametrize("data", [iter([b"ab", b"cd"]), ["ab"], [b"a\n"]])
def test_lines_are_no_form(data):
    with pytest.raises(InvalidValueError, match=r"^data: "):
        build_request("api", "/", method="POST", data=data)


# -- virtual hosts and base paths ----------------------------------------------------------------------------------


def head_lines(base_url: str, **arguments: object) -> list[bytes]:
    return build_request("api", "/cards?page=2", **arguments).encode_head(base_url, {}).split(b"\r\n")


@pytest.mark.parametrize("host", ["shop.example.com", "shop.example.com:8080", "10.0.0.1", "[::1]:80", "[2001:db8::1]"])
def test_host_of_the_caller_is_asked_for(host):
    assert f"Host: {host}".encode() in head_lines("http://10.0.0.1:8000", host=host)


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "user@host", "a:b", "a:0", "a:99999", "a\r\nX: y", "::1", "http://a", "a:80:80", 7, "ä"]
)
def test_host_that_is_no_host_is_refused(host):
    with pytest.raises(InvalidValueError, match=r"^host"):
        build_request("api", "/", host=host)


def test_base_path_of_the_instance_comes_before_the_path():
    lines = head_lines("http://10.0.0.1:8000/shop/v2")
    assert lines[:2] == [b"GET /shop/v2/cards?page=2 HTTP/1.1", b"Host: 10.0.0.1:8000"]
    assert head_lines("http://10.0.0.1:8000")[0] == b"GET /cards?page=2 HTTP/1.1"
