"""Responses of services that may be hostile: decoded within a limit, in the one form that both clients return."""

from __future__ import annotations

import datetime as dt
import functools
import http.client
import io
import json as json_codec
import zlib
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import requests
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from registry_admin.discovery.http.request import CallRequest
from registry_admin.errors import AttemptError, Outcome

BODY_LIMIT = 64 * 1024 * 1024  # bytes, before and after decompression
_MAX_ENCODINGS = 3
_MAX_MEMBERS = 100  # each member of a gzip body costs a copy of the bytes after it
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # lets zlib tell the two apart by their headers


class ResponseBody:
    """A body that is read in parts and may have `limit` bytes.

    Parts are joined at once, so that a body of single bytes doesn't cost an object for each.
    """

    __slots__ = ("_data", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data: bytes | bytearray = b""

    def announce(self, length: int | None) -> None:
        """Raises AttemptError if the announced length is above the limit."""
        if length is not None and length > self._limit:
            raise _too_large(self._limit)

    def add(self, part: bytes) -> None:
        """Adds the next part; raises AttemptError above the limit."""
        if len(self._data) + len(part) > self._limit:
            raise _too_large(self._limit)
        if not self._data:
            self._data = part
        elif isinstance(self._data, bytearray):
            self._data += part
        else:
            self._data = bytearray(self._data) + part

    def decode(self, encoding: str) -> bytes:
        """Returns the whole body, decompressed by its `Content-Encoding`; an unknown encoding is left as it is."""
        data = bytes(self._data)
        if not encoding:
            return data
        names = [name.strip().lower() for name in encoding.split(",") if name.strip()]
        if len(names) > _MAX_ENCODINGS:
            raise AttemptError(Outcome.UNUSABLE, "its reply is compressed too many times over")
        for name in reversed(names):
            if not data or name not in ("gzip", "x-gzip", "deflate"):
                break
            data = _inflate(data, self._limit)
        return data


def parse_length(text: str | None) -> int | None:
    """Returns the number of a Content-Length, or None for anything else."""
    return int(text[:20]) if text is not None and text.isascii() and text.isdigit() else None


def _too_large(limit: int) -> AttemptError:
    return AttemptError(Outcome.UNUSABLE, f"its reply is larger than {limit} bytes")


def _inflate(data: bytes, limit: int) -> bytes:
    try:
        return _inflate_members(data, limit, _GZIP_OR_ZLIB)
    except zlib.error:
        pass
    try:
        return _inflate_members(data, limit, -zlib.MAX_WBITS)  # "deflate" without a header, as some servers send it
    except zlib.error:
        raise AttemptError(Outcome.UNUSABLE, "its reply can't be decompressed") from None


def _inflate_members(data: bytes, limit: int, window_bits: int) -> bytes:
    """Returns all members of a gzip body; never holds more than one byte past the limit."""
    parts: list[bytes] = []
    size = 0
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(window_bits)
        part = member.decompress(data, limit - size + 1)
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        if not member.eof:
            raise AttemptError(Outcome.MAYBE_RECEIVED, "it broke off in the middle of its reply")
        parts.append(part)
        data = member.unused_data
        if not data:
            return b"".join(parts)
    raise AttemptError(Outcome.UNUSABLE, "its reply is compressed in too many pieces")


class ServiceResponse(requests.Response):
    """A `requests.Response` that is read to its end and holds no connection. Seldom used parts are made when needed.

    `base_url` is the instance's; `header_pairs` are the headers in the order in which they came.
    """

    def __init__(
        self,
        request: CallRequest,
        base_url: str,
        *,
        sent_headers: Mapping[str, str],
        status: int,
        reason: str,
        headers: Iterable[tuple[str, str]],
        content: bytes,
        elapsed_s: float,
    ) -> None:
        # super().__init__ is left out: it builds a cookie jar and more for each response.
        self._call_request = request
        self._sent_headers = sent_headers
        self.base_url = base_url
        self.header_pairs = tuple(headers)
        set_content(self, content)
        self._next = None
        self.status_code, self.reason = status, reason
        self._elapsed_s = elapsed_s
        self.history: list[requests.Response] = []
        self.raw = None

    @functools.cached_property
    def elapsed(self) -> dt.timedelta:  # type: ignore[override]
        """Time from the request until the head of the response."""
        return dt.timedelta(seconds=self._elapsed_s)

    def json(self, **kwargs: Any) -> Any:
        """The body as JSON, as in `requests`; the usual kind of response is decoded without looking at all headers."""
        if not kwargs and ("Content-Type", "application/json") in self.__dict__.get("header_pairs", ()):
            try:
                return json_codec.loads(self.content.decode("utf-8", "replace"))
            except json_codec.JSONDecodeError:
                pass
        return super().json(**kwargs)  # and raises the exception of `requests`

    @functools.cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """The headers; several values of one name are joined by commas."""
        merged: dict[str, str] = {}
        names: dict[str, str] = {}
        for name, value in self.header_pairs:
            key = names.setdefault(name.lower(), name)
            merged[key] = f"{merged[key]}, {value}" if key in merged else value
        return CaseInsensitiveDict(merged)

    @functools.cached_property
    def request(self) -> requests.PreparedRequest:  # type: ignore[override]
        """The request that was sent."""
        return self._call_request.prepare(self.base_url, self._sent_headers)

    @functools.cached_property
    def url(self) -> str:  # type: ignore[override]
        """URL that the request was sent to."""
        return self.base_url + self._call_request.target

    @functools.cached_property
    def encoding(self) -> str | None:  # type: ignore[override]
        """Encoding of the text, by the headers."""
        return get_encoding_from_headers(self.headers)

    @functools.cached_property
    def cookies(self) -> requests.cookies.RequestsCookieJar:  # type: ignore[override]
        """Cookies that the response sets. Later calls don't send them, unless they are given as `cookies=`."""
        jar = requests.cookies.RequestsCookieJar()
        if any(name.lower() == "set-cookie" for name, _ in self.header_pairs):
            extract_cookies_to_jar(jar, self.request, RawResponse(b"", self.header_pairs))  # type: ignore[no-untyped-call]
        return jar

    def close(self) -> None:
        """Does nothing: no connection is open."""


class RawResponse(io.BytesIO):
    """`raw` of a response, from which `requests` reads cookies by the names of urllib3's class."""

    def __init__(self, content: bytes, header_pairs: Iterable[tuple[str, str]]) -> None:
        super().__init__(content)
        message = http.client.HTTPMessage()
        for name, value in header_pairs:
            message[name] = value
        self._original_response = SimpleNamespace(msg=message)

    def release_conn(self) -> None:
        """Does nothing: no connection is open."""


def set_content(response: requests.Response, content: bytes) -> None:
    """Makes `response` one that has been read to its end; `requests` has no public way."""
    response._content = content  # noqa: SLF001
    response._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001
