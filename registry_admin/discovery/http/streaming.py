"""Bodies that are handed out while they are received: decoded, in parts and in lines. No I/O, for both clients."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator

from registry_admin.discovery.http.framing import TruncatedReplyError
from registry_admin.discovery.http.response import ResponseBody
from registry_admin.errors import AttemptError, Outcome

PART = 64 * 1024  # bytes that are handed out at once, at most


class StreamedBody(ResponseBody):
    """The part of a body that was received and not yet taken. It has no limit: the caller decides how much to read."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(sys.maxsize)

    def __len__(self) -> int:
        return len(self._data)

    def take(self) -> bytes:
        """Returns what was received, and forgets it."""
        data, self._data = bytes(self._data), b""
        return data


class StreamDecoder:
    """Decoder of one `Content-Encoding`. An unknown one, or several, are left as they are."""

    def __init__(self, encoding: str) -> None:
        self._is_packed = encoding.strip().lower() in {"gzip", "x-gzip", "deflate"}
        self._first = b""  # until there are enough to tell gzip, zlib and bare deflate apart
        self._member: zlib._Decompress | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yields the decoded parts of the next bytes, each of PART at most; raises AttemptError."""
        if not self._is_packed:
            yield from (data[position : position + PART] for position in range(0, len(data), PART))
            return
        if self._member is None:
            data = self._first = self._first + data
            if len(data) < 2:
                return
            self._member = zlib.decompressobj(_window_bits(data))
        try:
            yield from self._inflate(self._member, data)
        except zlib.error:
            raise AttemptError(Outcome.UNUSABLE, "its reply can't be decompressed") from None

    def _inflate(self, member: zlib._Decompress, data: bytes) -> Iterator[bytes]:
        part = b""
        while data or len(part) == PART:  # a full part may have left more within zlib
            if member.eof:
                if not data:
                    return
                member = self._member = zlib.decompressobj(_window_bits(b"\x1f\x8b"))  # only gzip has several members
            part = member.decompress(data, PART)
            if part:
                yield part
            data = member.unused_data if member.eof else member.unconsumed_tail

    def check_end(self) -> None:
        """Raises TruncatedReplyError where the body has ended in the middle of what was compressed."""
        if self._first and (self._member is None or not self._member.eof):
            raise TruncatedReplyError("the end of what was compressed")


def _window_bits(first: bytes) -> int:
    """Returns zlib's argument for a body that begins with these bytes: gzip, zlib, or "deflate" without a header."""
    is_gzip = first[:2] == b"\x1f\x8b"
    is_zlib = first[0] & 15 == zlib.DEFLATED and int.from_bytes(first[:2], "big") % 31 == 0  # RFC 1950 section 2.2
    return 32 + zlib.MAX_WBITS if is_gzip or is_zlib else -zlib.MAX_WBITS


class LineSplitter:
    """Splits parts into lines, as `bytes.splitlines` does, wherever the parts are cut; or at `delimiter`."""

    def __init__(self, limit: int, delimiter: bytes | None = None) -> None:
        self._limit = limit
        self._delimiter = delimiter
        self._pending = bytearray()

    def split(self, part: bytes) -> list[bytes]:
        """Returns the lines that are whole by now; raises AttemptError for one that is longer than the limit."""
        if self._is_ended_by(part):
            self._pending += part
            lines = self._split_pending()
        else:
            self._pending += part
            lines = []
        if len(self._pending) > self._limit:
            raise AttemptError(Outcome.UNUSABLE, f"a line of its reply is longer than {self._limit} bytes")
        return lines

    def _is_ended_by(self, part: bytes) -> bool:
        """Returns whether a line ends in `part`. Looks at no byte twice: a long line costs no more than short ones."""
        if self._delimiter is None:
            return b"\n" in part or b"\r" in part or self._pending.endswith(b"\r")
        return self._delimiter in bytes(self._pending[-len(self._delimiter) :]) + part

    def _split_pending(self) -> list[bytes]:
        if self._delimiter is not None:
            *lines, pending = bytes(self._pending).split(self._delimiter)
            self._pending = bytearray(pending)
            return lines
        ended = bytes(self._pending).splitlines(keepends=True)
        self._pending = bytearray(b"" if ended[-1].endswith(b"\n") else ended.pop())  # after a CR, an LF may follow
        return [line.rstrip(b"\r\n") for line in ended]

    def finish(self) -> list[bytes]:
        """Returns the last line, where it had no end."""
        pending, self._pending = bytes(self._pending), bytearray()
        return pending.splitlines() if self._delimiter is None else [pending] if pending else []
