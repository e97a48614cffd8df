"""What a call sends, checked and encoded before anything touches the network."""

from __future__ import annotations

import functools
import json as json_codec
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import requests
from requests.structures import CaseInsensitiveDict

from registry_admin import __version__
from registry_admin.consul import validation
from registry_admin.discovery.context import TIMEOUT_HEADER
from registry_admin.discovery.policy import is_repeatable
from registry_admin.errors import InvalidValueError

MAX_TIMEOUT_S = 24 * 3600.0
_REMEMBERED_LENGTH = 256  # characters; longer paths are rare, and would fill the memory
Params = Mapping[str, Any] | Iterable[tuple[str, Any]]
Data = str | bytes | Mapping[str, Any] | Iterable[tuple[str, Any]]
_OWN_HEADERS = {
    "User-Agent": f"registry-admin/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "identity",  # between services on one network, compressing costs more time than it saves
}


_WITH_A_BODY = frozenset({"POST", "PUT", "PATCH"})  # they say so even where it is empty: RFC 9110 section 8.6


@dataclass(frozen=True, kw_only=True)
class CallRequest:
    """One call, ready to be sent to any instance. `target` is the path and query exactly as they go over the wire."""

    service: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    tag: str | None
    timeout_s: float

    @property
    def repeatable(self) -> bool:
        """Whether receiving it twice does no harm."""
        return is_repeatable(self.method, self.headers)

    def prepared(self, root: str, added: Mapping[str, str]) -> requests.PreparedRequest:
        """As `requests` has it. Filled in by hand: its own `prepare` would rewrite the path."""
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = self.method, root + self.target, self.body
        prepared.headers = CaseInsensitiveDict({**self.headers, **added})
        if self.body is not None:
            prepared.headers["Content-Length"] = str(len(self.body))
        return prepared

    def head(self, root: str, added: Mapping[str, str]) -> bytes:
        """As it goes over the wire, for the instance at `root`: request line and headers, checked before."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {root.partition('://')[2]}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"{name}: {value}" for name, value in added.items()]
        if self.body is not None or self.method in _WITH_A_BODY:
            lines.append(f"Content-Length: {len(self.body or b'')}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def build_request(
    service: str,
    path: str,
    *,
    method: str = "GET",
    params: Params | None = None,
    headers: Mapping[str, str] | None = None,
    data: Data | None = None,
    json: Any = None,
    tag: str | None = None,
    timeout: float | None = None,
    default_timeout: float = 10.0,
) -> CallRequest:
    """Checks and encodes everything that a caller gives; raises InvalidValueError, which names the argument.

    The timeout is in seconds, for all attempts together.
    """
    if data is not None and json is not None:
        raise InvalidValueError("json", "(not shown)", "give either `json` or `data`, not both")
    body, content_type = _form_or_raw(data) if json is None else (_json(json), "application/json")
    service, method, target = _line(service, method, path)
    return CallRequest(
        service=service,
        method=method,
        target=target if params is None else _with_params(target, params),
        headers=_headers(headers, content_type) if headers or content_type else _OWN_HEADERS,
        body=body,
        tag=None if tag is None else validation.tags([tag], "tag")[0],
        timeout_s=_timeout(default_timeout if timeout is None else timeout),
    )


def _line(service: str, method: str, path: str) -> tuple[str, str, str]:
    """What is checked once for many calls: service, method and target."""
    if all(isinstance(part, str) and len(part) < _REMEMBERED_LENGTH for part in (service, method, path)):
        return _remembered_line(service, method, path)
    return _checked_line(service, method, path)


def _checked_line(service: str, method: str, path: str) -> tuple[str, str, str]:
    return validation.service_name(service, "service"), validation.method(method), _target(path)


_remembered_line = functools.lru_cache(maxsize=4096)(_checked_line)


def _target(path: str) -> str:
    """Path and query in the one form that neither urllib3 nor yarl changes, so that both send the very same."""
    checked = validation.http_path(path)
    checked = re.sub("%[0-9a-f]{2}", lambda match: match[0].upper(), checked, flags=re.IGNORECASE)
    path, _, query = checked.replace("[", "%5B").replace("]", "%5D").partition("?")
    return _joined(path, query)


def _with_params(target: str, params: Params) -> str:
    path, _, query = target.partition("?")
    return _joined(path, query, urlencode(_pairs(params, "params"), quote_via=quote))


def _joined(path: str, *queries: str) -> str:
    query = "&".join(part for part in queries if part)
    return f"{path}?{query}" if query else path


def _headers(given: Mapping[str, str] | None, content_type: str) -> dict[str, str]:
    sent = CaseInsensitiveDict(_OWN_HEADERS)
    sent.update(validation.headers(given or {}))
    if content_type:
        sent.setdefault("Content-Type", content_type)
    sent.pop(TIMEOUT_HEADER, None)  # handed on from a request, perhaps: each attempt tells what is left by then
    return dict(sent)


def _form_or_raw(data: Data | None) -> tuple[bytes | None, str]:
    if data is None or isinstance(data, bytes):
        return data, ""
    if isinstance(data, str):
        return _utf8(data, "data"), ""
    return urlencode(_pairs(data, "data")).encode(), "application/x-www-form-urlencoded"


def _pairs(given: Params, field: str) -> list[tuple[str, str]]:
    """Pairs of text; a list stands for several pairs with the same name, and None for none."""
    refusal = InvalidValueError(field, f"({type(given).__name__})", "give a mapping, or pairs of a name and a value")
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise refusal
    pairs: list[tuple[str, str]] = []
    try:
        items = [(name, value) for name, value in (given.items() if isinstance(given, Mapping) else given)]
    except (TypeError, ValueError):
        raise refusal from None
    for name, value in items:
        for single in value if isinstance(value, (list, tuple)) else [value]:
            if single is None:
                continue
            if not isinstance(single, (str, int, float, bytes)):
                raise InvalidValueError(f"{field}.{name}", f"({type(single).__name__})", "a value is text or a number")
            text = single.decode("latin-1") if isinstance(single, bytes) else str(single)
            _utf8(f"{name}{text}", field)
            pairs.append((str(name), text))
    return pairs


def _utf8(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidValueError(field, "(not shown)", "half of a surrogate pair is not text") from None


def _json(value: Any) -> bytes:
    try:
        return json_codec.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidValueError("json", "(not shown)", f"this can't be written as JSON: {error}") from None
    except RecursionError:
        raise InvalidValueError("json", "(not shown)", "this is nested too deeply for JSON") from None


def _timeout(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidValueError("timeout", value, "give a number of seconds, such as 10")
    if not 0 < value <= MAX_TIMEOUT_S:
        raise InvalidValueError("timeout", value, f"give seconds above 0 and up to {MAX_TIMEOUT_S:g}")
    return float(value)
