"""Sends attempts of asynchronous calls over pooled connections of the running event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping

import requests

from registry_admin.discovery.http import in_process
from registry_admin.discovery.http.async_connection import AsyncConnection
from registry_admin.discovery.http.async_pool import AsyncConnectionPool, InstancePool
from registry_admin.discovery.http.async_response import AsyncStreamedResponse
from registry_admin.discovery.http.async_stream import AsyncReceivedBody
from registry_admin.discovery.http.attempt_timer import AttemptTimer, run_in_thread
from registry_admin.discovery.http.failures import attempt_error, may_resend
from registry_admin.discovery.http.framing import ReplyError
from registry_admin.discovery.http.reader import ResponseReader
from registry_admin.discovery.http.request import CallRequest
from registry_admin.discovery.http.response import BODY_LIMIT, ServiceResponse
from registry_admin.discovery.http.streaming import StreamedBody
from registry_admin.errors import Outcome

_NETWORK_ERRORS = (ReplyError, OSError)
_inherited: list[object] = []  # pools of a parent process, kept so that nothing of it is closed here


class AsyncTransport:
    """Sends attempts on whichever event loop is running, with a pool for each loop; a forked child has its own."""

    def __init__(self, *, verify: bool | str = True, body_limit: int = BODY_LIMIT) -> None:
        self._verify = verify
        self._body_limit = body_limit
        self._pid = os.getpid()
        self._pools: dict[asyncio.AbstractEventLoop, AsyncConnectionPool] = {}
        self._closers: dict[asyncio.AbstractEventLoop, AsyncGenerator[AsyncConnectionPool, None]] = {}

    def running_pool(self) -> AsyncConnectionPool | None:
        """Returns the pool of the running loop, or None before its first call: see `open_pool`."""
        return self._pools.get(asyncio.get_running_loop()) if self._pid == os.getpid() else None

    async def send(
        self,
        request: CallRequest,
        base_url: str,
        *,
        headers: Mapping[str, str],
        pool: AsyncConnectionPool,
        timer: AttemptTimer,
    ) -> requests.Response:
        """Sends `request`, with `headers` beside its own, to the instance at `base_url`; returns its whole response.

        `pool` is the running loop's. Raises AttemptError, and what ends the timer unless that is its deadline.
        Cancelling closes the connection.
        """
        if base_url in in_process.answers:
            return await in_process.answer_async(request, base_url, headers, body_limit=self._body_limit)
        instance = pool.instance(base_url)
        connection = pool.take_idle(instance)
        is_reused = connection is not None
        if connection is None:
            try:
                connection = await pool.acquire(instance, timer)
            except _NETWORK_ERRORS as error:
                raise attempt_error(error, Outcome.NOT_SENT) from error
        head = request.encode_head(base_url, headers)
        streamed = StreamedBody() if request.is_streamed else None
        reader = ResponseReader(request.method, body_limit=self._body_limit, body=streamed)
        try:
            is_reusable = await connection.exchange(head, request.body, reader=reader, timer=timer, streamed=streamed)
        except BaseException as error:
            connection.abort()
            is_resent = may_resend(error, reused=is_reused, has_begun=reader.has_begun, repeatable=request.repeatable)
            if not is_resent:
                pool.leave(instance)
                if isinstance(error, _NETWORK_ERRORS):
                    raise attempt_error(error, Outcome.MAYBE_RECEIVED) from error
                raise
            reader = ResponseReader(request.method, body_limit=self._body_limit, body=streamed)
            connection, is_reusable = await _send_again(
                pool, instance, request=request, head=head, reader=reader, timer=timer, streamed=streamed
            )
        received = reader.head
        if streamed is not None:
            return AsyncStreamedResponse(
                request,
                base_url,
                source=_received_body(pool, instance, connection, deadline=timer.deadline),
                sent_headers=headers,
                head=received,
                elapsed_s=connection.head_at - connection.sent_at,
                body_limit=self._body_limit,
            )
        if is_reusable:
            pool.release(instance, connection, idle_hint_s=received.idle_hint_s)
        else:
            connection.abort()
            pool.leave(instance)
        body, encoding = reader.body, received.content_encoding
        # Decompressing can take a while, so it runs off the event loop.
        content = await timer.watch(run_in_thread(pool.loop, body.decode, encoding)) if encoding else body.decode("")
        return ServiceResponse(
            request,
            base_url,
            sent_headers=headers,
            status=received.status,
            reason=received.reason,
            headers=received.headers,
            content=content,
            elapsed_s=connection.head_at - connection.sent_at,
        )

    async def open_pool(self) -> AsyncConnectionPool:
        """Makes the pool of the running loop, which closes with it."""
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            _inherited.extend([*self._pools.values(), *self._closers.values()])
            self._pools, self._closers = {}, {}
            self._pid = os.getpid()
        for closed in [known for known in list(self._pools) if known.is_closed()]:
            self._pools.pop(closed).close()
            self._closers.pop(closed, None)
        closer = self._closers[loop] = _closing_with_loop(loop, verify=self._verify)
        pool = await anext(closer)
        return self._pools.setdefault(loop, pool)

    async def close(self) -> None:
        """Closes the connections of the running event loop; those of another loop close with it."""
        loop = asyncio.get_running_loop()
        closer = self._closers.pop(loop, None)
        self._pools.pop(loop, None)
        if closer is not None:
            await closer.aclose()


async def _send_again(
    pool: AsyncConnectionPool,
    instance: InstancePool,
    *,
    request: CallRequest,
    head: bytes,
    reader: ResponseReader,
    timer: AttemptTimer,
    streamed: StreamedBody | None,
) -> tuple[AsyncConnection, bool]:
    """Makes the exchange on a new connection; the old one was reused and ended before the first byte of a reply."""
    connection = None
    try:
        connection = await pool.open(instance, timer)
        return connection, await connection.exchange(head, request.body, reader=reader, timer=timer, streamed=streamed)
    except BaseException as error:
        if connection is not None:
            connection.abort()
        pool.leave(instance)
        if isinstance(error, _NETWORK_ERRORS):
            raise attempt_error(error, Outcome.MAYBE_RECEIVED) from error
        raise


def _received_body(
    pool: AsyncConnectionPool, instance: InstancePool, connection: AsyncConnection, *, deadline: float
) -> AsyncReceivedBody:
    """Returns the body that the connection receives; its end gives the connection back."""
    receiver = connection.receiver

    def release(is_complete: bool) -> None:  # noqa: FBT001
        connection.end_stream()
        if is_complete and connection.is_kept(receiver.reader):
            pool.release(instance, connection, idle_hint_s=receiver.reader.head.idle_hint_s)
        else:
            connection.abort()
            pool.leave(instance)

    return AsyncReceivedBody(receiver, pool.timer, loop=pool.loop, deadline=deadline, release=release)


async def _closing_with_loop(
    loop: asyncio.AbstractEventLoop, *, verify: bool | str
) -> AsyncGenerator[AsyncConnectionPool, None]:
    """Yields one pool, which closes with its loop: asyncio finishes asynchronous generators before it ends."""
    pool = AsyncConnectionPool(loop, verify=verify)
    try:
        yield pool
    finally:
        pool.close()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn
