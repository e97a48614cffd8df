"""Sends one attempt of an asynchronous call over aiohttp. The only module that imports it, and only when it is used."""

from __future__ import annotations

import asyncio
import functools
import io
import ssl
import time
from collections.abc import AsyncGenerator, Mapping

import aiohttp
import requests
import yarl
from aiohttp.client_proto import ResponseHandler

from registry_admin.discovery.connection import CONNECT_TIMEOUT_S, KEPT_ALIVE_S, readable
from registry_admin.discovery.faults import in_words
from registry_admin.discovery.framing import UnreadableReplyError, checked
from registry_admin.discovery.policy import AttemptError, Outcome
from registry_admin.discovery.reply import BODY_LIMIT, CHUNK, Body, Reply
from registry_admin.discovery.request import CallRequest

_CONNECTIONS_PER_INSTANCE = 100  # a limit over all of them would let one frozen instance starve the others
_VERSIONS = (aiohttp.HttpVersion10, aiohttp.HttpVersion11)
_LARGE = 1024 * 1024  # bytes; written at once they would hold up the event loop
_NOTHING_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class _Connection(ResponseHandler):
    """One that was closed, or on which something was said that nobody asked for, is not used again.

    aiohttp would take the latter for a reply. The event loop may not have noticed yet, so the socket itself is asked.
    """

    def is_connected(self) -> bool:
        """Whether another request may go over it."""
        if not super().is_connected() or self._buffer or self._tail or self.transport is None:
            return False
        sock = self.transport.get_extra_info("socket")
        return sock is None or not readable([sock], 0.0)


class AsyncTransport:
    """Sends attempts on whichever event loop is running, with a session for each loop."""

    def __init__(self, *, verify: bool | str = True, body_limit: int = BODY_LIMIT) -> None:
        self._verify = verify
        self._body_limit = body_limit
        self._kept: dict[asyncio.AbstractEventLoop, AsyncGenerator[aiohttp.ClientSession, None]] = {}
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    async def send(self, request: CallRequest, root: str, *, headers: Mapping[str, str]) -> requests.Response:
        """Sends `request`, with `headers` beside its own, to the instance at `root`, and reads its reply to the end.

        Raises AttemptError. How long it may take is up to the caller: cancelling it ends the connection.
        """
        session = self._sessions.get(asyncio.get_running_loop())
        if session is None or session.closed:
            session = await self._new_session()
        try:
            return await self._exchange(session, request, root, headers)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise AttemptError(Outcome.NOT_SENT, in_words(error)) from error
        except (aiohttp.ClientError, UnreadableReplyError, OSError) as error:
            raise AttemptError(Outcome.MAYBE_RECEIVED, in_words(error)) from error

    async def _exchange(
        self, session: aiohttp.ClientSession, request: CallRequest, root: str, headers: Mapping[str, str]
    ) -> requests.Response:
        began = time.monotonic()
        async with session.request(
            request.method,
            yarl.URL(root + request.target, encoded=True),
            headers={**request.headers, **headers},
            data=_in_parts(request.body),
            allow_redirects=False,
            skip_auto_headers=_NOTHING_ADDED,
        ) as reply:
            elapsed_s = time.monotonic() - began
            if reply.version not in _VERSIONS or reply.status < 200:
                raise UnreadableReplyError("another protocol than HTTP/1")
            received = checked(reply.raw_headers)
            body = Body(self._body_limit, announced=reply.headers.get("Content-Length"))
            async for part in reply.content.iter_chunked(CHUNK):
                body.add(part)
            encoding = reply.headers.get("Content-Encoding", "")
            # Decompressing can take a while, so it is done off the event loop.
            content = await asyncio.to_thread(body.content, encoding) if encoding else body.content("")
            return Reply(
                request,
                root,
                sent=headers,
                status=reply.status,
                reason=reply.reason or "",
                headers=received,
                content=content,
                elapsed_s=elapsed_s,
            )

    async def _new_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        for ended in [known for known in list(self._sessions) if known.is_closed()]:
            self._forget(ended)
        self._kept[loop] = self._keep_session()
        session = self._sessions[loop] = await anext(self._kept[loop])
        return session

    async def _keep_session(self) -> AsyncGenerator[aiohttp.ClientSession, None]:
        """A session that closes itself with its loop: asyncio finishes every asynchronous generator before it ends."""
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=_CONNECTIONS_PER_INSTANCE,
            keepalive_timeout=KEPT_ALIVE_S,
            ssl=ssl.create_default_context(cafile=self._verify) if isinstance(self._verify, str) else self._verify,
        )
        connector._factory = functools.partial(  # type: ignore[assignment]  # noqa: SLF001 - there is no other way
            _Connection, loop=asyncio.get_running_loop()
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            auto_decompress=False,
        ) as session:
            session._retry_connection = False  # noqa: SLF001 - whether to send again is decided in policy.py
            yield session

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sessions.pop(loop, None)
        self._kept.pop(loop, None)

    async def close(self) -> None:
        """Ends the connections of the running event loop; those of another end with it."""
        loop = asyncio.get_running_loop()
        keeper = self._kept.get(loop)
        self._forget(loop)
        if keeper is not None:
            await keeper.aclose()


def _in_parts(body: object) -> object:
    return io.BytesIO(body) if isinstance(body, bytes) and len(body) > _LARGE else body
