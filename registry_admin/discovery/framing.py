"""Where a reply begins and ends, read to the letter of RFC 9112.

`http.client` guesses where a reply is ambiguous: then a hostile service could have its next reply taken for another's.
"""

from __future__ import annotations

import http.client
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_HEAD = 64 * 1024  # bytes
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\x00\r\n]*))?")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token: RFC 9110 section 5.6.2
_IN_NO_VALUE = re.compile(rb"[\x00\r\n]")  # RFC 9110 section 5.5
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\r\n]*)?\r?\n")
_SWITCHING_PROTOCOLS = 101


class UnreadableReplyError(http.client.HTTPException):
    """What came is no HTTP, or can be read in more than one way."""


@dataclass(frozen=True, slots=True)
class Head:
    """A reply's status line and headers; `version` is 10 or 11."""

    version: int
    status: int
    reason: str
    headers: list[tuple[str, str]]


def read_head(stream: io.BufferedReader) -> Head:
    """The next head that is not a mere 1xx. Raises http.client.HTTPException."""
    while True:
        head = _read_one_head(stream)
        if head.status >= 200:
            return head
        if head.status == _SWITCHING_PROTOCOLS:
            raise UnreadableReplyError("nobody asked for another protocol")


def _read_one_head(stream: io.BufferedReader) -> Head:
    if not stream.peek(1):
        raise http.client.RemoteDisconnected("no reply")
    lines = _lines(stream)
    line = next(lines, None)
    found = _STATUS_LINE.fullmatch(line or b"")
    if found is None:
        raise http.client.BadStatusLine(repr(line))
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[0] in b" \t" and headers:  # continues the line before: RFC 9112 section 5.2
            headers[-1] = (headers[-1][0], headers[-1][1] + b" " + line.strip(b" \t"))
            continue
        name, colon, value = line.partition(b":")
        if not colon:
            raise UnreadableReplyError("a header line without a colon")
        headers.append((name, value.strip(b" \t")))
    minor, status, reason = found.groups(b"")
    return Head(10 + int(minor), int(status), reason.decode("latin-1").strip(), checked(headers))


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """Up to the empty line, without their ends; MAX_HEAD is for all of them together."""
    left = MAX_HEAD
    while True:
        line = stream.readline(left + 1)
        left -= len(line)
        if left < 0:
            raise http.client.LineTooLong("head")
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        if not line:
            return
        yield line


def checked(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """The headers as text. Raises UnreadableReplyError for what is no header, or leaves open where the body ends.

    See RFC 9112 section 6.3. Any transfer coding but "chunked" is one that was not asked for.
    """
    framed = False
    decoded = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or _IN_NO_VALUE.search(value):
            raise UnreadableReplyError("a malformed header")
        lower = name.lower()
        if lower == b"content-length":
            if framed or not _LENGTH.fullmatch(value):
                raise UnreadableReplyError("more than one length, or none that is a number")
            framed = True
        elif lower == b"transfer-encoding":
            if framed or value.lower() != b"chunked":
                raise UnreadableReplyError("a transfer coding beside a length, or one that nobody asked for")
            framed = True
        decoded.append((name.decode("ascii"), value.decode("latin-1")))
    return decoded


class StrictReply(http.client.HTTPResponse):
    """A reply that says clearly where it ends, or an HTTPException."""

    def begin(self) -> None:
        """Reads the head."""
        if self.headers is not None:
            return
        head = read_head(self.fp)
        self.code = self.status = head.status
        self.version, self.reason = head.version, head.reason
        self.headers = self.msg = http.client.HTTPMessage()
        for name, value in head.headers:
            self.headers[name] = value
        self.chunked = "transfer-encoding" in self.headers
        self.chunk_left = None
        self.length = self._announced()
        self.will_close = self._check_close() or (not self.chunked and self.length is None)

    def _announced(self) -> int | None:
        if self.status in (204, 304) or self._method == "HEAD":  # type: ignore[attr-defined]
            self.chunked = False
            return 0
        length = self.headers.get("content-length")
        return None if length is None else int(length)

    def _get_chunk_left(self) -> int | None:
        """Bytes left of the current chunk, or of the next one where it has ended; None where all have."""
        if not self.chunk_left:
            if self.chunk_left is not None and self._safe_read(2) != b"\r\n":  # type: ignore[attr-defined]
                raise UnreadableReplyError("a chunk longer than its size")
            line = self.fp.readline(MAX_HEAD)
            if len(line) < MAX_HEAD and not line.endswith(b"\n"):
                raise http.client.IncompleteRead(b"")
            found = _CHUNK_SIZE.fullmatch(line)
            if found is None:
                raise UnreadableReplyError("a chunk without a size")
            self.chunk_left = int(found[1], 16) or None
            if self.chunk_left is None:
                deque(_lines(self.fp), maxlen=0)  # the trailers are of no use
                self._close_conn()  # type: ignore[attr-defined]
        return self.chunk_left
