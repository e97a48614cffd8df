"""Reads one HTTP/1 response from received bytes, however they are split. No I/O, so that both clients share it."""

from __future__ import annotations

import re
from enum import IntEnum

from registry_admin.discovery.http.framing import (
    MAX_HEAD,
    HeadTooLargeError,
    NoReplyError,
    ResponseHead,
    TruncatedReplyError,
    UnreadableReplyError,
    check_beginning,
    parse_head,
)
from registry_admin.discovery.http.response import BODY_LIMIT, ResponseBody

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[^\x00\r\n]*)?\r")  # the LF is cut off; RFC 9112 section 7.1
_MAX_CHUNK_LINE = 4096  # bytes; extensions are not used
_CR = 13
_NO_HEAD = ResponseHead(11, 0, "", [])
_FORBIDDEN_IN_TRAILER = re.compile(rb"[\x00\r]")


class _Part(IntEnum):
    """The part of the response that the next byte belongs to."""

    HEAD = 0
    LENGTH = 1  # a body of known length
    UNTIL_CLOSE = 2
    CHUNK_SIZE = 3
    CHUNK = 4
    CHUNK_END = 5
    TRAILERS = 6
    NONE = 7  # the response is complete


class ResponseReader:
    """Reader of the response to one request with `method`.

    Give it the received bytes with `feed` until that returns True, and tell it of the connection's end with `feed_eof`.
    Interim responses (1xx) are skipped, trailers and chunk extensions dropped. `head.status` is 0 until it has come.
    Raises ReplyError for anything but a whole, unambiguous response, and AttemptError for a body above `body_limit`.
    `body` takes the body instead of one with that limit.
    """

    __slots__ = ("_checked", "_dropped", "_line", "_method", "_part", "_remaining", "_skipped", "body",
                 "head", "keeps_connection")  # fmt: skip

    def __init__(self, method: str, *, body_limit: int = BODY_LIMIT, body: ResponseBody | None = None) -> None:
        self.head = _NO_HEAD
        self.body = ResponseBody(body_limit) if body is None else body
        self.keeps_connection = False
        self._method = method
        self._part = _Part.HEAD
        self._line = bytearray()  # bytes of a head or of a line whose end has not come
        self._checked = False
        self._skipped = False  # interim responses came before
        self._remaining = 0  # bytes of the body or of the chunk
        self._dropped = 0  # bytes of extensions or of trailers

    @property
    def is_complete(self) -> bool:
        """True if the whole response has been read."""
        return self._part is _Part.NONE

    @property
    def has_begun(self) -> bool:
        """True if any byte of the response has come."""
        return self._part is not _Part.HEAD or self._skipped or bool(self._line)

    def feed(self, data: bytes) -> bool:
        """Reads the next bytes; returns True when the response is complete. Bytes past its end stop the reuse."""
        part = self._part
        if part is _Part.HEAD:
            return self._feed_head(data)
        if part is _Part.LENGTH:
            return self._feed_length(data)
        if part is _Part.UNTIL_CLOSE:
            self.body.add(data)
            return False
        if part is _Part.NONE:
            self.keeps_connection = False
            return True
        return self._feed_chunks(data)

    def feed_eof(self) -> None:
        """Ends the response with the connection; raises ReplyError unless it may end here."""
        self.keeps_connection = False
        if self._part is _Part.UNTIL_CLOSE:
            self._part = _Part.NONE
        elif self._part is not _Part.NONE:
            raise TruncatedReplyError("it broke off") if self.has_begun else NoReplyError("no reply")

    def _feed_head(self, data: bytes) -> bool:
        while True:
            block: bytes | bytearray = data
            start = 0
            if self._line:
                start = max(0, len(self._line) - 2)
                self._line += data
                block = self._line
            end = block.find(b"\n\r\n", start)
            after = end + 3
            bare = block.find(b"\n\n", start, after if end >= 0 else len(block))
            if bare >= 0:
                end, after = bare, bare + 2
            if end < 0 or after > MAX_HEAD:
                self._keep_beginning(block)
                return False
            head = parse_head(bytes(block[: end - (block[end - 1] == _CR)]))
            rest = bytes(block[after:])
            self._line, self._checked = bytearray(), False
            if head.status >= 200:
                return self._begin_body(head, rest)
            self._skipped = True
            if not rest:
                return False
            data = rest

    def _keep_beginning(self, block: bytes | bytearray) -> None:
        """Keeps the bytes of an unfinished head; refuses them where no head can come of them."""
        if not self._checked:
            check_beginning(bytes(block[:MAX_HEAD]))
            self._checked = block.find(b"\n", 0, MAX_HEAD) >= 0
        if len(block) > MAX_HEAD:
            raise HeadTooLargeError("head")
        if block is not self._line:
            self._line = bytearray(block)

    def _begin_body(self, head: ResponseHead, data: bytes) -> bool:
        self.head = head
        if not head.has_body(self._method):
            return self._finish(surplus=bool(data))
        if head.length is not None:
            self.body.announce(head.length)
            if len(data) == head.length:  # the usual case: all at once
                self.body.add(data)
                return self._finish(surplus=False)
            self._part, self._remaining = _Part.LENGTH, head.length
        else:
            self._part = _Part.CHUNK_SIZE if head.is_chunked else _Part.UNTIL_CLOSE
        return self.feed(data) if data else False

    def _finish(self, *, surplus: bool) -> bool:
        self._part = _Part.NONE
        self.keeps_connection = self.head.keeps_connection and not surplus
        return True

    def _feed_length(self, data: bytes) -> bool:
        size = len(data)
        if size < self._remaining:
            self._remaining -= size
            self.body.add(data)
            return False
        self.body.add(data[: self._remaining])
        return self._finish(surplus=size > self._remaining)

    def _feed_chunks(self, data: bytes) -> bool:
        position, size = 0, len(data)
        while position < size:
            if self._part is _Part.CHUNK:
                taken = data[position : position + self._remaining]
                self.body.add(taken)
                position += len(taken)
                self._remaining -= len(taken)
                if not self._remaining:
                    self._part = _Part.CHUNK_END
            elif self._part is _Part.CHUNK_END:
                taken = data[position : position + 2 - len(self._line)]
                self._line += taken
                position += len(taken)
                if not b"\r\n".startswith(bytes(self._line)):
                    raise UnreadableReplyError("a chunk longer than its size")
                if len(self._line) == 2:
                    self._line, self._part = bytearray(), _Part.CHUNK_SIZE
            else:
                newline = data.find(b"\n", position)
                line = data[position : newline if newline >= 0 else size]
                position += len(line) + 1
                if self._add_to_line(line, whole=newline >= 0):
                    return self._finish(surplus=position < size)
        return False

    def _add_to_line(self, part: bytes, *, whole: bool) -> bool:
        """Adds to the chunk size or trailer that is being read, and uses it when it is whole; True at the last one."""
        if self._part is _Part.TRAILERS:
            self._dropped += len(part) + whole
            if self._dropped > MAX_HEAD:
                raise HeadTooLargeError("trailers")
        elif len(self._line) + len(part) > _MAX_CHUNK_LINE:
            raise UnreadableReplyError("a chunk without a size")
        self._line += part
        if not whole:
            return False
        line, self._line = self._line, bytearray()
        if self._part is _Part.TRAILERS:
            if not line.endswith(b"\r") or _FORBIDDEN_IN_TRAILER.search(line, 0, len(line) - 1):
                raise UnreadableReplyError("a malformed trailer")
            return line == b"\r"
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise UnreadableReplyError("a chunk without a size")
        self._dropped += len(match[2] or b"")
        if self._dropped > MAX_HEAD:
            raise UnreadableReplyError("too many chunk extensions")
        self._remaining = int(match[1], 16)
        if not self._remaining:
            self._part, self._dropped = _Part.TRAILERS, 0
        else:
            self._part = _Part.CHUNK
        return False
