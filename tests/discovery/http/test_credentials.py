"""Credentials: `auth` and `cookies` become the headers that `requests` would send."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from requests.auth import AuthBase, HTTPDigestAuth, HTTPProxyAuth

from registry_admin.discovery.http.request import build_request
from registry_admin.errors import InvalidValueError


def header(name: str, **arguments: Any) -> str | None:
    return build_request("api", "/path", **arguments).headers.get(name)


class Token(AuthBase):
    """A token of the user's, which signs the path and the body."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Token {request.method} {request.path_url} {request.body!r}"
        return request


@pytest.mark.parametrize(
    "auth",
    [
        ("user", "pass"),
        ("us er", "p:äß"),
        (b"\xff", b"\xfe"),
        requests.auth.HTTPBasicAuth("u", "p"),
        Token(),
    ],
    ids=["pair", "Latin-1", "bytes", "basic", "own"],
)
def test_auth_sets_the_header_that_requests_would_send(auth):
    expected = requests.Request("POST", "http://api.service/path", auth=auth, data=b"body").prepare().headers
    headers = build_request("api", "/path", method="POST", auth=auth, data=b"body").headers
    names = [name for name in expected if name != "Content-Length"]
    assert {name: headers[name] for name in names} == {name: expected[name] for name in names}


def test_password_outside_of_latin_1_is_sent_as_utf_8():
    assert header("Authorization", auth=("u", "\u20ac")) == "Basic dTrigqw="


def test_auth_replaces_a_header_of_the_caller():
    sent = build_request("api", "/", auth=("u", "p"), headers={"authorization": "other"}).headers
    assert [value for name, value in sent.items() if name.lower() == "authorization"] == ["Basic dTpw"]


def change_url(request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.url = "http://evil/"
    return request


def split_header(request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers["X"] = "a\r\nSecret: b"
    return request


@pytest.mark.parametrize(
    "auth",
    [
        "user:secret",
        7,
        ("secret",),
        ("u", 7),
        HTTPDigestAuth("u", "secret"),
        HTTPProxyAuth("u", "secret"),
        change_url,
        split_header,
        lambda request: None,
    ],
    ids=["text", "number", "one", "odd pair", "digest", "proxy", "other URL", "two headers", "nothing"],
)
def test_auth_that_can_not_be_sent_is_refused_without_the_password(auth):
    with pytest.raises(InvalidValueError, match=r"^auth") as caught:
        build_request("api", "/", auth=auth)
    assert "secret" not in str(caught.value).lower()


def jar() -> requests.cookies.RequestsCookieJar:
    cookies = requests.cookies.RequestsCookieJar()
    cookies.set("everywhere", "1")
    cookies.set("deeper", "2", path="/path/deeper")
    cookies.set("other", "3", domain="other.example.com")
    return cookies


@pytest.mark.parametrize("cookies", [{"a": "1", "b": "two words"}, jar(), {}], ids=["mapping", "jar", "none"])
def test_cookies_make_the_header_that_requests_would_send(cookies):
    expected = requests.Request("GET", "http://api.service/path", cookies=cookies).prepare().headers
    assert header("Cookie", cookies=cookies) == expected.get("Cookie")


def test_cookie_header_of_the_caller_wins():
    assert header("Cookie", cookies={"a": "1"}, headers={"Cookie": "b=2"}) == "b=2"


@pytest.mark.parametrize(
    "cookies",
    ["a=1", [("a", "1")], {"a": 1}, {"a": "1; b=2"}, {"a": "1\r\nX: y"}, {"a;b": "1"}, {"a": "\u20ac"}],
    ids=repr,
)
def test_cookie_that_could_split_the_header_is_refused(cookies):
    with pytest.raises(InvalidValueError, match=r"^cookies"):
        build_request("api", "/", cookies=cookies)
