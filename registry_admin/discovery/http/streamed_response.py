"""Responses whose bodies are read while they are iterated."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from requests.exceptions import StreamConsumedError

from registry_admin.discovery.http.framing import ResponseHead
from registry_admin.discovery.http.request import CallRequest
from registry_admin.discovery.http.response import ResponseBody, ServiceResponse, set_content
from registry_admin.discovery.http.streaming import LineSplitter
from registry_admin.errors import AttemptError

OnError = Callable[[AttemptError], Exception]


class BodySource(Protocol):
    """Decoded parts of a body that is being received. `close` gives the connection back, or closes it."""

    def parts(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Closable(Protocol):
    """A source that is closed at the end of the body."""

    def close(self) -> None: ...


class BodyEnd:
    """How a body ends: closes its source, then calls `on_close`, or raises what `on_error` makes of an error."""

    def __init__(self, source: Closable) -> None:
        self._source = source
        self._has_ended = False
        self.on_close: Callable[[], None] = lambda: None
        self.on_error: OnError = lambda error: error

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
        if not self._has_ended:
            self._has_ended = True
            self.on_close()

    @contextlib.contextmanager
    def converting_errors(self) -> Iterator[None]:
        """Closes the source where the block fails."""
        try:
            yield
        except AttemptError as error:
            self._has_ended = True
            self._source.close()
            raise self.on_error(error) from error
        except BaseException:
            self.close()
            raise


class UnreadResponse(ServiceResponse):
    """A response of which only the head has been read. `end.on_error` makes the exception for what goes wrong later."""

    end: BodyEnd
    _content: Any  # False until the body has been read, as `requests` has it

    def __init__(
        self,
        request: CallRequest,
        base_url: str,
        *,
        sent_headers: Mapping[str, str],
        head: ResponseHead,
        elapsed_s: float,
        body_limit: int,
    ) -> None:
        super().__init__(
            request,
            base_url,
            sent_headers=sent_headers,
            status=head.status,
            reason=head.reason,
            headers=head.headers,
            content=b"",
            elapsed_s=elapsed_s,
        )
        self._content = False
        self._content_consumed = False
        self._body_limit = body_limit

    def _line_splitter(self, delimiter: str | bytes | None) -> LineSplitter:
        return LineSplitter(self._body_limit, delimiter.encode() if isinstance(delimiter, str) else delimiter)

    def _decode_line(self, line: bytes, *, decode_unicode: bool) -> Any:
        return line.decode(self.encoding, "replace") if decode_unicode and self.encoding else line

    def _begin(self) -> None:
        """Raises StreamConsumedError where the body has been iterated before, as `requests` does."""
        if self._content_consumed:
            raise StreamConsumedError
        self._content_consumed = True


class StreamedResponse(UnreadResponse):
    """A `requests.Response` of a call with `stream=True`, within the call's deadline. Use it with `with`, or close it.

    `iter_content` and `iter_lines` raise CallFailedError where the rest doesn't come, and DeadlineExceededError where
    time runs out. What is read at once, and a line, may have as many bytes as the client's `body_limit`.
    """

    def __init__(self, request: CallRequest, base_url: str, *, source: BodySource, **options: Any) -> None:
        super().__init__(request, base_url, **options)
        self._source = source
        self.end = BodyEnd(source)
        self.raw = _RawBody(source, self.end)

    @property
    def content(self) -> bytes:
        """The whole body; raises CallFailedError above the client's limit."""
        if self._content is False:
            self._begin()
            body = ResponseBody(self._body_limit)
            with self.end.converting_errors():
                for part in self._source.parts():
                    body.add(part)
            self.close()
            set_content(self, body.decode(""))
        content: bytes = self._content
        return content

    def iter_lines(  # type: ignore[override]
        self,
        chunk_size: int = 512,  # noqa: ARG002 - the signature of requests
        decode_unicode: bool = False,  # noqa: FBT001, FBT002
        delimiter: str | bytes | None = None,
    ) -> Iterator[Any]:
        """Yields the lines without their ends, each as soon as it is whole."""
        splitter = self._line_splitter(delimiter)
        for part in self.iter_content(None):
            with self.end.converting_errors():
                lines = splitter.split(part)
            for line in lines:
                yield self._decode_line(line, decode_unicode=decode_unicode)
        for line in splitter.finish():
            yield self._decode_line(line, decode_unicode=decode_unicode)

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it."""
        self.end.close()


class _RawBody(io.RawIOBase):
    """`raw` of a streamed response: the decoded body as a file, and `stream`, by which `requests` iterates it."""

    def __init__(self, source: BodySource, end: BodyEnd) -> None:
        super().__init__()
        self._source = source
        self._end = end
        self._parts: Iterator[bytes] | None = None
        self._pending = b""

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Implements io.RawIOBase."""
        if self._parts is None:
            self._parts = self._received_parts()
        part = self._pending or next(self._parts, b"")
        size = min(len(part), len(buffer))
        buffer[:size], self._pending = part[:size], part[size:]
        return size

    def stream(self, size: int | None, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: ARG002, FBT001
        """Yields parts of `size` bytes at most, or as they come."""
        for part in self._received_parts():
            step = size or len(part)
            yield from (part[position : position + step] for position in range(0, len(part), step))

    def _received_parts(self) -> Iterator[bytes]:
        with self._end.converting_errors():
            yield from self._source.parts()
        self._end.close()
