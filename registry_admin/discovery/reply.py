"""A reply from a service that may be hostile: decoded within a limit, put into the one form both clients return."""

from __future__ import annotations

import datetime as dt
import functools
import zlib
from collections.abc import Iterable, Mapping

import requests
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from registry_admin.discovery.policy import AttemptError, Outcome
from registry_admin.discovery.request import CallRequest

BODY_LIMIT = 64 * 1024 * 1024  # bytes, before and after decompression
CHUNK = 64 * 1024
_MAX_ENCODINGS = 3
_MAX_MEMBERS = 100  # each costs a copy of what follows it
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # tells the two apart by their headers


class Body:
    """A body as it comes in: refuses to grow past `limit` bytes."""

    def __init__(self, limit: int, *, announced: str | None = None) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        if announced is not None and announced.isascii() and announced.isdigit():
            self._refuse_above(int(announced[:20]))

    def add(self, part: bytes) -> None:
        """Takes the next part, or raises AttemptError."""
        self._size += len(part)
        self._refuse_above(self._size)
        self._parts.append(part)

    def _refuse_above(self, size: int) -> None:
        if size > self._limit:
            raise too_large(self._limit)

    def content(self, encoding: str) -> bytes:
        """The whole body, decompressed as `Content-Encoding` says; an encoding that isn't known stays as it is."""
        data = b"".join(self._parts)
        names = [name.strip().lower() for name in encoding.split(",") if name.strip()]
        if len(names) > _MAX_ENCODINGS:
            raise AttemptError(Outcome.UNUSABLE, "its reply is compressed too many times over")
        for name in reversed(names):
            if not data or name not in ("gzip", "x-gzip", "deflate"):
                break
            data = _inflate(data, self._limit)
        return data


def too_large(limit: int) -> AttemptError:
    """A body above the limit: asking elsewhere would bring the same."""
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
    """All members of a gzip body, never holding more than one byte past the limit."""
    parts: list[bytes] = []
    size = 0
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(window_bits)
        part = member.decompress(data, limit - size + 1)
        size += len(part)
        if size > limit:
            raise too_large(limit)
        if not member.eof:
            raise AttemptError(Outcome.MAYBE_RECEIVED, "it broke off in the middle of its reply")
        parts.append(part)
        data = member.unused_data
        if not data:
            return b"".join(parts)
    raise AttemptError(Outcome.UNUSABLE, "its reply is compressed in too many pieces")


class Reply(requests.Response):
    """A `requests.Response` that is read to its end and holds no connection; what few want is made when asked for."""

    def __init__(
        self,
        request: CallRequest,
        root: str,
        *,
        sent: Mapping[str, str],
        status: int,
        reason: str,
        headers: Iterable[tuple[str, str]],
        content: bytes,
        elapsed_s: float,
    ) -> None:
        # Not super().__init__, which builds a cookie jar and more for each.
        self._made_from = (request, sent)
        self.root = root  # of the instance
        self.pairs = tuple(headers)  # as they came
        self._content = content
        self._content_consumed = True
        self._next = None
        self.status_code, self.reason = status, reason
        self.elapsed = dt.timedelta(seconds=elapsed_s)
        self.history: list[requests.Response] = []
        self.raw = None

    @functools.cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """Where a name came more than once, its values with commas between them."""
        merged: dict[str, str] = {}
        names: dict[str, str] = {}
        for name, value in self.pairs:
            key = names.setdefault(name.lower(), name)
            merged[key] = f"{merged[key]}, {value}" if key in merged else value
        return CaseInsensitiveDict(merged)

    @functools.cached_property
    def request(self) -> requests.PreparedRequest:  # type: ignore[override]
        """What was sent."""
        request, sent = self._made_from
        return request.prepared(self.root, sent)

    @functools.cached_property
    def url(self) -> str:  # type: ignore[override]
        """Where it was sent to."""
        return self.root + self._made_from[0].target

    @functools.cached_property
    def encoding(self) -> str | None:  # type: ignore[override]
        """Of the text, as the headers say."""
        return get_encoding_from_headers(self.headers)

    @functools.cached_property
    def cookies(self) -> requests.cookies.RequestsCookieJar:  # type: ignore[override]
        """None: between services they are headers like others."""
        return requests.cookies.RequestsCookieJar()

    def close(self) -> None:
        """There is nothing to close."""
