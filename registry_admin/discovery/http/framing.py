"""Parses the head of an HTTP/1 response to the letter of RFC 9112, and refuses one that can be read in two ways.

A lenient parser lets a hostile service have its next response taken for another's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, TypeVar

MAX_HEAD = 64 * 1024  # bytes of a status line and all headers, or of all trailers
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\x00\r\n]*))?")
_FIELD_LINE = re.compile(  # the name is a token (RFC 9110 section 5.6.2), the value has no NUL, CR or LF (section 5.5)
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*)"
)
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_IDLE_HINT = re.compile(r"(?:^|[,\s])timeout\s*=\s*\"?([0-9]{1,9})\"?\s*(?:,|$)", re.ASCII | re.IGNORECASE)
_MAX_CACHED = 1024  # of each kind
_MAX_CACHED_HEAD = 1024  # bytes; longer ones seldom come again
_MAX_CACHED_LINE = 160  # bytes
V = TypeVar("V")
_SWITCHING_PROTOCOLS = 101
_STATUSES_WITHOUT_BODY = frozenset({204, 304})  # RFC 9112 section 6.3


class ReplyError(Exception):
    """The bytes are no whole, unambiguous HTTP/1 response."""


class UnreadableReplyError(ReplyError):
    """The bytes are no HTTP/1 response, or can be read in more than one way."""


class HeadTooLargeError(ReplyError):
    """The head, or the trailers, are larger than MAX_HEAD."""


class TruncatedReplyError(ReplyError):
    """The connection ended in the middle of the response."""


class NoReplyError(ReplyError):
    """The connection ended before the first byte of the response."""


class _StatusLine(NamedTuple):
    version: int
    status: int
    reason: str


class _Use(Enum):
    """What a header says about the body and the connection."""

    NOTHING = auto()
    LENGTH = auto()
    TRANSFER_CODING = auto()
    CONTENT_CODING = auto()
    CLOSE = auto()
    KEEP_ALIVE = auto()
    IDLE_HINT = auto()


class _Field(NamedTuple):
    pair: tuple[str, str]
    use: _Use


@dataclass(slots=True)
class ResponseHead:  # not frozen, which would make it dearer; but shared by all responses with the same head
    """Status line and headers of a response, and what they say about its body; `version` is 10 or 11.

    `length` is None where no Content-Length came. `keeps_connection` tells whether another request may follow
    (RFC 9112 section 9.3), and `idle_hint_s` for how long the server says that it keeps an idle connection.
    """

    version: int
    status: int
    reason: str
    headers: Sequence[tuple[str, str]]
    length: int | None = None
    is_chunked: bool = False
    keeps_connection: bool = True
    idle_hint_s: int | None = None
    content_encoding: str = ""

    def has_body(self, method: str) -> bool:
        """Returns whether a body follows in response to `method`, whatever the headers say (RFC 9112 section 6.3)."""
        return method != "HEAD" and self.status >= 200 and self.status not in _STATUSES_WITHOUT_BODY


def parse_head(block: bytes) -> ResponseHead:
    """Returns the head in `block`, which is without its empty line. Raises UnreadableReplyError."""
    known = _heads.get(block)
    if known is not None:
        return known
    try:
        head = _parse_lines(block.split(b"\r\n"))
    except UnreadableReplyError:
        head = _parse_lines(_unfold(block))
    _remember(_heads, block, head, longest=_MAX_CACHED_HEAD)
    return head


def check_beginning(block: bytes) -> None:
    """Raises UnreadableReplyError if these first bytes of a head can't become one, before all of it has come."""
    line, end, _ = block.partition(b"\n")
    if end:
        _parse_status_line(line.removesuffix(b"\r"))
    elif not line.startswith(b"HTTP/1."[: len(line)]):
        raise UnreadableReplyError("no HTTP/1 response")


def _unfold(block: bytes) -> list[bytes]:
    """Returns the lines, which may end with LF alone, with continued ones joined (RFC 9112 sections 2.2 and 5.2)."""
    lines: list[bytes] = []
    *parts, last = block.split(b"\n")
    for line in (*(part.removesuffix(b"\r") for part in parts), last):  # the last one is without its end already
        if line[:1] in {b" ", b"\t"} and len(lines) > 1:
            lines[-1] += b" " + line.strip(b" \t")
        else:
            lines.append(line)
    return lines


def _parse_lines(lines: list[bytes]) -> ResponseHead:
    version, status, reason = _parse_status_line(lines[0])
    headers: list[tuple[str, str]] = []
    head = ResponseHead(version, status, reason, headers)
    fields, uses = _fields, []
    for line in lines[1:]:
        field = fields.get(line) or _parse_field(line)
        headers.append(field.pair)
        if field.use is not _NOTHING:
            uses.append(field)
    for field in uses:
        _apply(head, field)
    if version != 11:  # knows no chunks, and reuse only where both sides say so
        head.keeps_connection = (
            head.keeps_connection and not head.is_chunked and any(field.use is _Use.KEEP_ALIVE for field in uses)
        )
    if status == _SWITCHING_PROTOCOLS:
        raise UnreadableReplyError("nobody asked for another protocol")
    return head


def _apply(head: ResponseHead, field: _Field) -> None:
    value = field.pair[1]
    match field.use:
        case _Use.LENGTH:
            if head.length is not None or head.is_chunked or not _LENGTH.fullmatch(value):
                raise UnreadableReplyError("more than one length, or none that is a number")
            head.length = int(value)
        case _Use.TRANSFER_CODING:  # requests ask for no coding, so only "chunked" is accepted
            if head.length is not None or head.is_chunked or value.lower() != "chunked":
                raise UnreadableReplyError("a transfer coding beside a length, or one that nobody asked for")
            head.is_chunked = True
        case _Use.CONTENT_CODING:
            head.content_encoding = f"{head.content_encoding},{value}" if head.content_encoding else value
        case _Use.CLOSE:
            head.keeps_connection = False
        case _Use.IDLE_HINT:
            hint = _IDLE_HINT.search(value)
            head.idle_hint_s = int(hint[1]) if hint else None


_USES = {
    "content-length": _Use.LENGTH,
    "transfer-encoding": _Use.TRANSFER_CODING,
    "content-encoding": _Use.CONTENT_CODING,
    "keep-alive": _Use.IDLE_HINT,
}
_NOTHING = _Use.NOTHING
# Services send the same head with each response, or the same lines with another date.
_heads: dict[bytes, ResponseHead] = {}
_status_lines: dict[bytes, _StatusLine] = {}
_fields: dict[bytes, _Field] = {}


def _parse_status_line(line: bytes) -> _StatusLine:
    known = _status_lines.get(line)
    if known is not None:
        return known
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UnreadableReplyError("no status line of HTTP/1")
    minor, status, reason = match.groups(b"")
    parsed = _StatusLine(10 + int(minor), int(status), reason.decode("latin-1").strip())
    _remember(_status_lines, line, parsed)
    return parsed


def _parse_field(line: bytes) -> _Field:
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        raise UnreadableReplyError("a malformed header")
    name, value = match[1].decode("ascii"), match[2].rstrip(b" \t").decode("latin-1")
    key = name.lower()
    field = _Field((name, value), _connection_use(value) if key == "connection" else _USES.get(key, _Use.NOTHING))
    _remember(_fields, line, field)
    return field


def _connection_use(value: str) -> _Use:
    options = {option.strip(" \t") for option in value.lower().split(",")}
    if "close" in options:
        return _Use.CLOSE
    return _Use.KEEP_ALIVE if "keep-alive" in options else _Use.NOTHING


def _remember(cache: dict[bytes, V], text: bytes, parsed: V, *, longest: int = _MAX_CACHED_LINE) -> None:
    if len(text) <= longest:
        if len(cache) >= _MAX_CACHED:
            cache.clear()
        cache[text] = parsed
