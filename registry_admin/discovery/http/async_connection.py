"""Connections of the asynchronous transport, on any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from registry_admin.discovery.http.async_stream import BodyReceiver
from registry_admin.discovery.http.attempt_timer import AttemptTimer, follow_thread, run_in_thread
from registry_admin.discovery.http.connection import CONNECT_TIMEOUT_S, IDLE_TIMEOUT_S, RECEIVE_SIZE
from registry_admin.discovery.http.framing import NoReplyError, ReplyError, TruncatedReplyError
from registry_admin.discovery.http.reader import ResponseReader
from registry_admin.discovery.http.resolver import Address, numeric_address, start_lookup
from registry_admin.discovery.http.streaming import StreamedBody
from registry_admin.discovery.http.tls import tls_context
from registry_admin.discovery.http.upload import UPLOAD_PART, Upload
from registry_admin.errors import AttemptError


class AsyncConnection(asyncio.BufferedProtocol):
    """An open connection to an instance. One request at a time; whoever gave it a request aborts it on any error.

    `buffer` is shared by all connections of the loop, because bytes are copied out of it as soon as they are received.
    An idle connection owns no timer, no error and no pause. `on_lost` is called when it has ended by itself.
    """

    __slots__ = ("_body", "_buffer", "_drained", "_is_ended", "_is_paused", "_is_readable", "_is_sent", "_loop",
                 "_reader", "_receiver", "_sock", "_transport", "_waiter", "head_at", "idle_until", "is_lost", "is_tls",
                 "on_lost", "sent_at")  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, *, buffer: memoryview, is_tls: bool
    ) -> None:
        self.is_tls = is_tls
        self.is_lost = False
        self.sent_at = self.head_at = self.idle_until = 0.0
        self.on_lost: Callable[[AsyncConnection], None] | None = None
        self._loop = loop
        self._sock = sock
        self._buffer = buffer
        self._is_readable = _poller(sock)
        self._transport: asyncio.Transport = _NO_TRANSPORT
        self._reader: ResponseReader | None = None
        self._body: StreamedBody | None = None  # of the request under way, if its response is streamed
        self._receiver: BodyReceiver | None = None  # after the head of a streamed response
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_paused = False
        self._is_sent = True
        self._is_ended = False

    # -- asyncio.BufferedProtocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implements asyncio.BaseProtocol."""
        self._transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Implements asyncio.BufferedProtocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Implements asyncio.BufferedProtocol."""
        self._feed(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        """Implements asyncio.BufferedProtocol; the transport closes itself."""
        self._is_ended = True
        if not self.is_tls or self._has_tls_end():
            self._feed_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Implements asyncio.BaseProtocol."""
        self.is_lost = True
        if self._receiver is not None:
            self._receiver.lose(exc)
        reader = self._reader
        if reader is not None and self._waiter is not None and not self._waiter.done():
            if exc is not None and not self.is_tls:
                self._read_rest()
            self._fail(exc or (TruncatedReplyError("end") if reader.has_begun else NoReplyError("end")))
        self.resume_writing()
        if self.on_lost is not None:
            self.on_lost(self)

    def pause_writing(self) -> None:
        """Implements asyncio.BaseProtocol."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Implements asyncio.BaseProtocol."""
        self._is_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _feed(self, data: bytes) -> None:
        reader, waiter = self._reader, self._waiter
        if self._receiver is not None:
            self._receiver.feed(data)
            return
        if reader is None or waiter is None:
            self.abort()  # nobody has asked for these bytes
            return
        if waiter.done():
            reader.keeps_connection = False
            return
        try:
            is_complete = reader.feed(data)
        except (ReplyError, AttemptError) as error:
            self._fail(error)
            return
        if not self.head_at and reader.head.status:
            self.head_at = time.monotonic()
        if self._body is not None and reader.head.status:
            self._receiver = BodyReceiver(self._loop, self._transport, reader, self._body)
            is_complete = True
        if is_complete:
            waiter.set_result(None)
            if self._drained is not None:
                self.resume_writing()

    def _feed_eof(self) -> None:
        if self._receiver is not None:
            self._receiver.feed_eof()
            return
        reader, waiter = self._reader, self._waiter
        if reader is None or waiter is None or waiter.done():
            return
        try:
            reader.feed_eof()
        except ReplyError as error:
            self._fail(error)
        else:
            waiter.set_result(None)
            self.resume_writing()

    def _has_tls_end(self) -> bool:
        """Returns whether TLS's own end has come; asyncio reports the plain end of the connection in the same way."""
        tls = self._transport.get_extra_info("ssl_object")
        try:
            return not tls.read(1)
        except (ssl.SSLError, ValueError):
            return False

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self.resume_writing()

    def _read_rest(self) -> None:
        """Reads what was received before the connection broke: asyncio drops it, and with it a refusal of an upload."""
        with contextlib.suppress(OSError):
            while self._waiter is not None and not self._waiter.done():
                data = self._sock.recv(RECEIVE_SIZE)
                if not data:
                    self._feed_eof()
                    return
                self._feed(data)

    # -- requests --

    async def exchange(
        self,
        head: bytes,
        body: bytes | Upload | None,
        *,
        reader: ResponseReader,
        timer: AttemptTimer,
        streamed: StreamedBody | None = None,
    ) -> bool:
        """Sends a request and gives its response to `reader`; returns whether the connection may be used again.

        With `streamed`, the reader's body, it returns when the head has come; `receiver` gets the rest.
        Raises ReplyError, OSError (TimeoutError at the timer's deadline), AttemptError, and what else ends the timer.
        """
        self._reader = reader
        self._body = streamed
        waiter = self._waiter = self._loop.create_future()
        self.head_at = 0.0
        self.sent_at = time.monotonic()
        if body is None or (isinstance(body, bytes) and len(body) <= UPLOAD_PART):
            self._transport.write(head + body if body else head)
        else:
            self._transport.write(head)
            self._is_sent = False
            try:
                await self._upload(body, waiter, timer)
            finally:
                if waiter.done() and not waiter.cancelled():
                    waiter.exception()  # else asyncio complains that nobody has looked at it
        await timer.watch(waiter)
        self._reader = self._waiter = None
        return self.is_kept(reader)

    @property
    def receiver(self) -> BodyReceiver:
        """Receiver of a streamed response's body, after its head; `end_stream` ends that."""
        if self._receiver is None:
            raise NoReplyError("no head")
        return self._receiver

    def end_stream(self) -> None:
        """Ends the receiving of a body, so that another request may follow where the connection is kept."""
        self._body = self._receiver = None

    def is_kept(self, reader: ResponseReader) -> bool:
        """Returns whether the connection may be used again after the response that `reader` has read."""
        return reader.keeps_connection and self._is_sent and not self._is_ended and not self.is_lost

    async def _upload(self, body: bytes | Upload, waiter: asyncio.Future[None], timer: AttemptTimer) -> None:
        """Writes the body in parts, as fast as they leave, until the instance has replied."""
        sent = 0
        while sent < len(body) and not waiter.done():
            if isinstance(body, Upload):
                part = await timer.watch(run_in_thread(self._loop, body.read_part, sent))
            else:
                part = body[sent : sent + UPLOAD_PART]
            if waiter.done():
                return
            self._transport.write(part)
            sent += len(part)
            if self._is_paused:
                self._drained = self._loop.create_future()
                await timer.watch(self._drained)
                self._drained = None
            else:
                await asyncio.sleep(0)  # the loop looks for a reply before the next part
        self._is_sent = sent == len(body)

    @property
    def is_reusable(self) -> bool:
        """False if it has ended or is about to, or if bytes have come that no request asked for."""
        if self.is_lost or self._is_ended or time.monotonic() >= self.idle_until or self._transport.is_closing():
            return False
        return not self._is_readable()

    def set_idle(self, idle_hint_s: int | None) -> None:
        """Sets until when it may be used again; `idle_hint_s` is for how long the server says that it keeps it."""
        idle_s = IDLE_TIMEOUT_S if idle_hint_s is None else min(IDLE_TIMEOUT_S, idle_hint_s - 1)
        self.idle_until = self.sent_at + idle_s

    def abort(self) -> None:
        """Closes the connection at once; a gentle end of TLS would keep its transport alive."""
        self.on_lost = None
        self._reader = self._waiter = self._body = self._receiver = None
        if self._loop.is_closed():
            self._sock.close()
        else:
            self._transport.abort()


_NO_TRANSPORT = asyncio.Transport()


def _poller(sock: socket.socket) -> Callable[[], bool]:
    """Returns a function that tells whether the socket has bytes or has ended, which the loop may not have read yet."""
    if not hasattr(select, "poll"):
        return lambda: bool(select.select([sock], [], [], 0)[0])
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poll = poller.poll
    return lambda: bool(poll(0))


async def connect(base_url: str, *, deadline: float, verify: bool | str, buffer: memoryview) -> AsyncConnection:
    """Returns a connection to the instance at `base_url`; raises OSError, TimeoutError at `deadline` included."""
    loop = asyncio.get_running_loop()
    until = min(deadline, time.monotonic() + CONNECT_TIMEOUT_S)
    parts = urlsplit(base_url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    numeric = numeric_address(host, port)
    async with asyncio.timeout(max(0.0, until - time.monotonic())):
        addresses = [numeric] if numeric else await follow_thread(loop, start_lookup(host, port))
    sock = await _dial(loop, addresses, until=until)
    connection = AsyncConnection(loop, sock, buffer=buffer, is_tls=is_tls)
    try:
        remaining_s = max(0.001, until - time.monotonic())  # asyncio takes no handshake time-out of 0
        async with asyncio.timeout(remaining_s):
            if is_tls:
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=tls_context(verify),
                    server_hostname=host,
                    ssl_handshake_timeout=remaining_s,
                    ssl_shutdown_timeout=1.0,
                )
            else:
                await loop.create_connection(lambda: connection, sock=sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, ConnectionAbortedError) and "handshake" in str(error):
            raise TimeoutError from error
        raise
    return connection


async def _dial(loop: asyncio.AbstractEventLoop, addresses: Sequence[Address], *, until: float) -> socket.socket:
    """Returns a socket that is connected to the first address that answers."""
    failure: OSError = TimeoutError()
    for number, (family, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)  # noqa: FBT003
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            remaining_s = (until - time.monotonic()) / (
                len(addresses) - number
            )  # a silent one leaves time for the next
            async with asyncio.timeout(max(0.0, remaining_s)):
                await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure
