"""Responses of asynchronous calls whose bodies are read while they are iterated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol, Self

from registry_admin.discovery.http.request import CallRequest
from registry_admin.discovery.http.response import ResponseBody, set_content
from registry_admin.discovery.http.streamed_response import BodyEnd, UnreadResponse


class AsyncBodySource(Protocol):
    """Does the same as BodySource on an event loop."""

    def parts(self) -> AsyncIterator[bytes]: ...

    def close(self) -> None: ...


class AsyncStreamedResponse(UnreadResponse):
    """Response of an asynchronous call with `stream=True`, within the call's deadline. Use it with `async with`.

    Iterate it with `aiter_content` or `aiter_lines`; after `await aread()` it is like any other response. Raises what
    StreamedResponse raises.
    """

    def __init__(self, request: CallRequest, base_url: str, *, source: AsyncBodySource, **options: Any) -> None:
        super().__init__(request, base_url, **options)
        self._source = source
        self.end = BodyEnd(source)

    @property
    def content(self) -> bytes:
        """The whole body, after `aread`."""
        if self._content is False:
            raise RuntimeError(
                "The body has not been read: await response.aread(), or iterate it with aiter_content()."
            )
        content: bytes = self._content
        return content

    async def aread(self) -> bytes:
        """Reads the whole body and returns it; raises CallFailedError above the client's limit."""
        if self._content is False:
            body = ResponseBody(self._body_limit)
            async for part in self.aiter_content():
                with self.end.converting_errors():
                    body.add(part)
            set_content(self, body.decode(""))
        return self.content

    async def aiter_content(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Yields the body in parts of `chunk_size` bytes at most, or as they come."""
        self._begin()
        with self.end.converting_errors():
            async for part in self._source.parts():
                step = chunk_size or len(part)
                for position in range(0, len(part), step):
                    yield part[position : position + step]
        self.close()

    async def aiter_lines(
        self, *, decode_unicode: bool = False, delimiter: str | bytes | None = None
    ) -> AsyncIterator[Any]:
        """Yields the lines without their ends, each as soon as it is whole."""
        splitter = self._line_splitter(delimiter)
        async for part in self.aiter_content():
            with self.end.converting_errors():
                lines = splitter.split(part)
            for line in lines:
                yield self._decode_line(line, decode_unicode=decode_unicode)
        for line in splitter.finish():
            yield self._decode_line(line, decode_unicode=decode_unicode)

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it."""
        self.end.close()

    async def aclose(self) -> None:
        """Does the same as `close`, and lets the event loop close the socket."""
        self.close()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()
