"""Body of an asynchronous response that is received while it is iterated, no faster than it is taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from registry_admin.discovery.http.attempt_timer import AttemptTimer, LoopTimer
from registry_admin.discovery.http.failures import attempt_error
from registry_admin.discovery.http.framing import ReplyError, TruncatedReplyError
from registry_admin.discovery.http.reader import ResponseReader
from registry_admin.discovery.http.streaming import StreamDecoder, StreamedBody
from registry_admin.errors import AttemptError, Outcome

PAUSE_ABOVE = 128 * 1024  # bytes that were received and not yet taken


class BodyReceiver:
    """Takes what a connection receives after the head of its response, and pauses it where too much lies unread."""

    __slots__ = ("_error", "_is_paused", "_loop", "_transport", "_waiter", "body", "reader")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        reader: ResponseReader,
        body: StreamedBody,
    ) -> None:
        self.reader = reader
        self.body = body
        self._loop = loop
        self._transport = transport
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._is_paused = False

    def feed(self, data: bytes) -> None:
        """Takes received bytes."""
        try:
            self.reader.feed(data)
        except (ReplyError, AttemptError) as error:
            self.fail(error)
            return
        is_full = len(self.body) > PAUSE_ABOVE and not self.reader.is_complete
        if is_full and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        """Takes the end of the connection."""
        try:
            self.reader.feed_eof()
        except ReplyError as error:
            self.fail(error)
        else:
            self._wake()

    def lose(self, error: Exception | None) -> None:
        """Takes the loss of the connection, which is an error in the middle of the body."""
        if not self.reader.is_complete:
            self.fail(error or TruncatedReplyError("end"))

    def fail(self, error: Exception) -> None:
        """Ends the body with an error, after what was received before."""
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self, timer: AttemptTimer) -> bytes:
        """Returns what was received, at least a byte; empty at the end. Raises the connection's error."""
        timer.check()  # a peer that sends without a pause meets the deadline, too
        while not self.body and not self.reader.is_complete:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await timer.watch(self._waiter)
        data = self.body.take()
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data


class AsyncReceivedBody:
    """Body that `receiver` receives until `deadline`. `release` takes back the connection, told whether to reuse it."""

    def __init__(
        self,
        receiver: BodyReceiver,
        timer: LoopTimer,
        *,
        loop: asyncio.AbstractEventLoop,
        deadline: float,
        release: Callable[[bool], None],
    ) -> None:
        self._receiver = receiver
        self._timer = timer
        self._loop = loop
        self._deadline = deadline
        self._release: Callable[[bool], None] | None = release

    async def parts(self) -> AsyncIterator[bytes]:
        """Yields the decoded parts as they are received; raises AttemptError."""
        decoder = StreamDecoder(self._receiver.reader.head.content_encoding)
        timer = AttemptTimer(self._timer, deadline=self._deadline)
        try:
            while data := await self._receiver.receive(timer):
                for part in decoder.decode(data):
                    yield part
                if self._release is None:
                    return
            decoder.check_end()
        except (ReplyError, OSError) as error:
            raise attempt_error(error, Outcome.MAYBE_RECEIVED) from error
        finally:
            timer.close()

    def close(self) -> None:
        """Gives the connection back if all of the body has come, else closes it."""
        release, self._release = self._release, None
        if release is not None:
            release(self._receiver.reader.is_complete)

    def __del__(self) -> None:
        if self._release is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it is closed this very moment
                self._loop.call_soon_threadsafe(self._release, False)  # noqa: FBT003


class MemoryBody:
    """A body that is there already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def parts(self) -> AsyncIterator[bytes]:
        """Yields it."""
        if self._content:
            yield self._content

    def close(self) -> None:
        """Does nothing: no connection is open."""
