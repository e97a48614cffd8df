"""Requests of calls: checked and encoded before anything is sent."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode

import requests
from requests.structures import CaseInsensitiveDict

from registry_admin import __version__
from registry_admin.consul import validation
from registry_admin.discovery import own_instances
from registry_admin.discovery.http.body import Data, Params, encode_body, to_pairs
from registry_admin.discovery.http.credentials import Auth, Cookies, auth_headers, cookie_headers
from registry_admin.discovery.http.multipart import Files
from registry_admin.discovery.http.upload import Upload
from registry_admin.discovery.propagation import TIMEOUT_HEADER
from registry_admin.errors import InvalidValueError

MAX_TIMEOUT_S = 24 * 3600.0
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})  # RFC 9110 section 9.2.2, without TRACE
HEDGED_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # safe: RFC 9110 section 9.2.1, without TRACE
_MAX_CACHED_LENGTH = 256  # characters; longer paths are rare, and would fill the memory
_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)
_DEFAULT_HEADERS = {
    "User-Agent": f"registry-admin/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "identity",  # between services on one network, compressing costs more time than it saves
}
_METHODS_WITH_BODY = frozenset(
    {"POST", "PUT", "PATCH"}
)  # send Content-Length: 0 for an empty one, RFC 9110 section 8.6


@dataclass(frozen=True, kw_only=True)
class CallRequest:
    """A call's request, for any instance. `target` is the path and query, as they are sent below the base path.

    `host` is the virtual host that is asked for, or "" for the instance's own address. `is_streamed`: the body of the
    response is handed out while it is received. `hedged`: it may be sent to a
    second instance while the first one is still at work.
    """

    service: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | Upload | None
    tag: str | None
    timeout_s: float
    hedged: bool
    host: str = ""
    is_streamed: bool = False

    @functools.cached_property
    def repeatable(self) -> bool:
        """True if the service may receive it twice: see `is_repeatable`."""
        return is_repeatable(self.method, self.headers)

    @functools.cached_property
    def _own_lines(self) -> str:
        """The header lines that don't depend on the instance and the attempt."""
        lines = [f"{name}: {value}\r\n" for name, value in self.headers.items()]
        if self.body is not None or self.method in _METHODS_WITH_BODY:
            lines.append(f"Content-Length: {0 if self.body is None else len(self.body)}\r\n")
        return "".join(lines)

    def prepare(self, base_url: str, attempt_headers: Mapping[str, str]) -> requests.PreparedRequest:
        """Returns it in the form of `requests`, for the instance at `base_url`."""
        prepared = requests.PreparedRequest()  # its own `prepare` would rewrite the path
        prepared.method, prepared.url = self.method, base_url + self.target
        prepared.body = self.body.file if isinstance(self.body, Upload) else self.body
        prepared.headers = CaseInsensitiveDict({**self.headers, **attempt_headers})
        if self.body is not None:
            prepared.headers["Content-Length"] = str(len(self.body))
        if self.host:
            prepared.headers["Host"] = self.host
        return prepared

    def encode_head(self, base_url: str, attempt_headers: Mapping[str, str]) -> bytes:
        """Returns the request line and the headers as they are sent to the instance at `base_url`."""
        host, slash, base_path = base_url.partition("://")[2].partition("/")
        lines = "".join([f"{name}: {value}\r\n" for name, value in attempt_headers.items()])
        target = f"/{base_path}{self.target}" if slash else self.target
        head = f"{self.method} {target} HTTP/1.1\r\nHost: {self.host or host}\r\n{self._own_lines}{lines}\r\n"
        return head.encode("latin-1")


def is_repeatable(method: str, headers: Mapping[str, str]) -> bool:
    """Returns whether a service may receive the call twice: the method is idempotent, or a key identifies the call.

    The key is the header `Idempotency-Key`.
    """
    return method in IDEMPOTENT_METHODS or any(name.lower() == "idempotency-key" for name in headers)


def build_request(
    service: str,
    path: str,
    *,
    method: str = "GET",
    params: Params | None = None,
    headers: Mapping[str, str] | None = None,
    data: Data | None = None,
    json: Any = None,
    files: Files | None = None,
    auth: Auth | None = None,
    cookies: Cookies | None = None,
    host: str | None = None,
    tag: str | None = None,
    timeout: float | None = None,
    hedge: bool = True,
    stream: bool = False,
    default_timeout: float = 10.0,
) -> CallRequest:
    """Returns the request for these arguments; raises InvalidValueError, which names the wrong one.

    `timeout` is in seconds, for all attempts together.
    """
    if not isinstance(hedge, bool):
        raise InvalidValueError("hedge", hedge, "give True or False")
    if not isinstance(stream, bool):
        raise InvalidValueError("stream", stream, "give True or False")
    limit_s = default_timeout if timeout is None else timeout
    is_plain = params is headers is data is json is tag is None
    is_plain = is_plain and files is None and auth is None and cookies is None and host is None and not stream
    if is_plain and type(limit_s) in {float, int}:
        return _build_plain(service, path, method, limit_s, hedge)
    return _build_request(
        service,
        path,
        method=method,
        params=params,
        headers=headers,
        data=data,
        json=json,
        files=files,
        auth=auth,
        cookies=cookies,
        host=host,
        tag=tag,
        timeout=limit_s,
        hedge=hedge,
        stream=stream,
    )


def _build_plain(service: str, path: str, method: str, timeout: float, hedge: bool) -> CallRequest:  # noqa: FBT001
    """Returns a request without arguments of its own; equal ones are checked and encoded only once."""
    is_text = type(service) is str and type(path) is str and type(method) is str
    if is_text and len(path) < _MAX_CACHED_LENGTH and len(service) + len(method) < _MAX_CACHED_LENGTH:
        return _build_plain_cached(service, path, method, timeout, hedge)
    return _build_request(service, path, method=method, timeout=timeout, hedge=hedge)


@functools.lru_cache(maxsize=1024)
def _build_plain_cached(service: str, path: str, method: str, timeout: float, hedge: bool) -> CallRequest:  # noqa: FBT001
    return _build_request(service, path, method=method, timeout=timeout, hedge=hedge)


def _build_request(
    service: str,
    path: str,
    *,
    method: str,
    timeout: float,
    hedge: bool,
    params: Params | None = None,
    headers: Mapping[str, str] | None = None,
    data: Data | None = None,
    json: Any = None,
    files: Files | None = None,
    auth: Auth | None = None,
    cookies: Cookies | None = None,
    host: str | None = None,
    tag: str | None = None,
    stream: bool = False,
) -> CallRequest:
    body, content_type = encode_body(data, json, files)
    service, method, target = _check_line(service, method, path)
    request = CallRequest(
        service=service,
        method=method,
        target=target if params is None else _add_params(target, params),
        headers=_merge_headers(headers, content_type) if headers or content_type else _DEFAULT_HEADERS,
        body=body,
        tag=None if tag is None else validation.selected_tag(tag),
        timeout_s=check_timeout(timeout),
        hedged=hedge and method in HEDGED_METHODS,
        host="" if host is None else _check_host(host),
        is_streamed=stream,
    )
    return request if auth is None and cookies is None else _add_credentials(request, auth, cookies)


def _add_credentials(request: CallRequest, auth: Auth | None, cookies: Cookies | None) -> CallRequest:
    """Returns the request with these credentials, which are made for the URL `http://NAME.service/…`.

    As in `requests`, `auth` replaces a header of the caller's, and `cookies` don't.
    """
    headers = CaseInsensitiveDict(request.headers)
    prepared = request.prepare(f"http://{request.service}.service", {})
    if cookies is not None and "Cookie" not in headers:
        headers.update(cookie_headers(cookies, prepared))
        prepared.headers.update(headers)
    if auth is not None:
        headers.update(auth_headers(auth, prepared))
    return replace(request, headers=dict(headers))


def _check_host(host: str) -> str:
    """Returns the name of a virtual host, with or without a port; raises InvalidValueError."""
    match = _HOST.fullmatch(host) if isinstance(host, str) else None
    if match is None:
        raise InvalidValueError("host", host, "give a host name, with or without a port: shop.example.com:8080")
    validation.address(match[1].strip("[]"), "host")
    validation.port(int(match[2] or 80), "host")
    return host


def _check_line(service: str, method: str, path: str) -> tuple[str, str, str]:
    """Returns service, method and target; checks equal ones only once."""
    if all(isinstance(part, str) and len(part) < _MAX_CACHED_LENGTH for part in (service, method, path)):
        return _check_line_cached(service, method, path)
    return _check_line_uncached(service, method, path)


def _check_line_uncached(service: str, method: str, path: str) -> tuple[str, str, str]:
    return validation.service_name(service, "service"), validation.method(method), _normalize_target(path)


_check_line_cached = functools.lru_cache(maxsize=4096)(_check_line_uncached)


def _normalize_target(path: str) -> str:
    """Returns path and query in the form that neither urllib3 nor yarl changes, so that both clients send the same."""
    checked = validation.http_path(path)
    checked = re.sub("%[0-9a-f]{2}", lambda match: match[0].upper(), checked, flags=re.IGNORECASE)
    path, _, query = checked.replace("[", "%5B").replace("]", "%5D").partition("?")
    return _join_target(path, query)


def _add_params(target: str, params: Params) -> str:
    path, _, query = target.partition("?")
    return _join_target(path, query, urlencode(to_pairs(params, "params"), quote_via=quote))


def _join_target(path: str, *queries: str) -> str:
    query = "&".join(part for part in queries if part)
    return f"{path}?{query}" if query else path


def _merge_headers(caller_headers: Mapping[str, str] | None, content_type: str) -> dict[str, str]:
    merged = CaseInsensitiveDict(_DEFAULT_HEADERS)
    merged.update(validation.headers(caller_headers or {}))
    if content_type:
        merged.setdefault("Content-Type", content_type)
    merged.pop(TIMEOUT_HEADER, None)  # each attempt sends its own remaining time
    merged.pop(own_instances.HEADER, None)  # and names its own instance
    return dict(merged)


def check_timeout(value: float) -> float:
    """Returns the time limit of a call in seconds; raises InvalidValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidValueError("timeout", value, "give a number of seconds, such as 10")
    if not 0 < value <= MAX_TIMEOUT_S:
        raise InvalidValueError("timeout", value, f"give seconds above 0 and up to {MAX_TIMEOUT_S:g}")
    return float(value)
