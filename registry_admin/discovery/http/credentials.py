"""Credentials of a call, in the forms that `requests` takes as `auth=` and `cookies=`: they become headers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar
from typing import Any

import requests
from requests.cookies import cookiejar_from_dict, get_cookie_header

from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError

Auth = tuple[str, str] | Callable[[requests.PreparedRequest], requests.PreparedRequest]
Cookies = Mapping[str, str] | CookieJar
_FORMS = "give a pair of user and password, or a function that sets headers, as the classes of requests.auth"


def auth_headers(auth: Auth, request: requests.PreparedRequest) -> dict[str, str]:
    """Returns the headers that `auth` sets on `request`; raises InvalidValueError, which never shows a password.

    A pair of user and password makes Basic authentication (RFC 7617).
    """
    if isinstance(auth, (tuple, list)) and len(auth) == 2 and all(isinstance(part, (str, bytes)) for part in auth):
        credentials = b":".join(_encode(part) for part in auth)
        return {"Authorization": f"Basic {base64.b64encode(credentials).decode('ascii')}"}
    if not callable(auth):
        raise InvalidValueError("auth", "(not shown)", _FORMS)
    before = request.copy()
    changed: Any = auth(request)
    if not isinstance(changed, requests.PreparedRequest):
        raise InvalidValueError("auth", f"({type(auth).__name__})", _FORMS)
    if any(changed.hooks.values()):
        reason = "an answer to a challenge, as Digest is, isn't supported: mount requests_adapter on a Session for it"
        raise InvalidValueError("auth", f"({type(auth).__name__})", reason)
    if (changed.method, changed.url, changed.body) != (before.method, before.url, before.body):
        raise InvalidValueError("auth", f"({type(auth).__name__})", "it may set headers, but not change the request")
    set_headers = {name: value for name, value in changed.headers.items() if before.headers.get(name) != value}
    return validation.headers({name: _decode(value) for name, value in set_headers.items()}, "auth")


def cookie_headers(cookies: Cookies, request: requests.PreparedRequest) -> dict[str, str]:
    """Returns the `Cookie` header for these cookies; of a jar, for those that belong to the URL of `request`."""
    if not isinstance(cookies, CookieJar):
        if not isinstance(cookies, Mapping):
            raise InvalidValueError("cookies", f"({type(cookies).__name__})", "give a mapping, or a CookieJar")
        for name, value in cookies.items():
            if not isinstance(name, str) or not isinstance(value, str) or set(f"{name}{value}") & set(";\r\n"):
                raise InvalidValueError("cookies", "(not shown)", "names and values are text without ';'")
        cookies = cookiejar_from_dict(dict(cookies))  # type: ignore[no-untyped-call]
    value = get_cookie_header(cookies, request)  # type: ignore[no-untyped-call]
    return validation.headers({"Cookie": value}, "cookies") if value else {}


def _encode(text: str | bytes) -> bytes:
    """Returns bytes as `requests` sends them, which is Latin-1; other letters as UTF-8."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _decode(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
