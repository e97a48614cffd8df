"""Sends one attempt of a synchronous call: pooled connections, and one deadline for every byte of it.

`requests.Session` isn't used: what it adds (cookies, redirects, proxies, `.netrc`) must not happen between services.
Its adapter is, so that what takes its place in tests, such as `responses`, goes on working.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from registry_admin.discovery.faults import in_words
from registry_admin.discovery.framing import StrictReply
from registry_admin.discovery.policy import AttemptError, Outcome
from registry_admin.discovery.reply import BODY_LIMIT, CHUNK, Body, build_response
from registry_admin.discovery.request import CallRequest

CONNECT_TIMEOUT_S = 2.0
KEPT_ALIVE_S = 1.5  # below gunicorn's 2 s and uvicorn's 5 s: a call must not meet a server that is just hanging up
_POOLS = 256  # instances whose connections are kept


class SyncTransport:
    """Sends attempts, for any number of threads; after a fork the child opens connections of its own."""

    def __init__(self, *, verify: bool | str = True, body_limit: int = BODY_LIMIT) -> None:
        self._verify = verify
        self._body_limit = body_limit
        self._adapter, self._pid = _Adapter(), os.getpid()

    def send(self, request: CallRequest, root: str, *, deadline: float) -> requests.Response:
        """One attempt on the instance at `root`, read to its end before `deadline` (as `time.monotonic` has it).

        Raises AttemptError.
        """
        if self._pid != os.getpid():
            self._adapter, self._pid = _Adapter(), os.getpid()
        flight = _Flight(deadline)
        token = _flight.set(flight)
        try:
            return self._exchange(request.prepared(root))
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise AttemptError(Outcome.MAYBE_RECEIVED if flight.sent else Outcome.NOT_SENT, in_words(error)) from error
        finally:
            _flight.reset(token)

    def _exchange(self, prepared: requests.PreparedRequest) -> requests.Response:
        began = time.monotonic()
        reply = self._adapter.send(prepared, stream=True, timeout=None, verify=self._verify)
        elapsed_s = time.monotonic() - began
        try:
            body = Body(self._body_limit, announced=reply.headers.get("Content-Length"))
            while part := reply.raw.read(CHUNK, decode_content=False):
                body.add(part)
        except BaseException:
            reply.raw.close()  # the rest is of no use, so neither is the connection
            raise
        return build_response(
            prepared,
            status=reply.status_code,
            reason=reply.reason,
            headers=reply.raw.headers.items(),
            content=body.content(reply.headers.get("Content-Encoding", "")),
            elapsed_s=elapsed_s,
        )

    def close(self) -> None:
        """Ends the idle connections."""
        self._adapter.close()


@dataclass
class _Flight:
    """The attempt under way on this thread."""

    deadline: float
    sent: bool = False

    def remaining(self) -> float:
        """Seconds left, above zero; raises TimeoutError when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


_flight: ContextVar[_Flight] = ContextVar("flight")


class _TimedReader(io.RawIOBase):
    """A socket's bytes, each wait for which ends at the deadline: a byte a second doesn't start it anew."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_flight.get().remaining())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedReply(StrictReply):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach()))


class _TimedConnection(HTTPConnection):
    """Keeps to the deadline, and tells whether anything was sent."""

    response_class = _TimedReply
    _last_used = 0.0

    def connect(self) -> None:
        self.timeout = min(CONNECT_TIMEOUT_S, _flight.get().remaining())
        super().connect()

    def send(self, data: Any) -> None:
        flight = _flight.get()
        if self.sock is None:
            self.connect()
        if self.sock is not None:
            self.sock.settimeout(flight.remaining())
        flight.sent, self._last_used = True, time.monotonic()
        super().send(data)

    @property
    def is_connected(self) -> bool:
        """Also False where it was idle for so long that the other side may be hanging up right now."""
        idle = time.monotonic() - self._last_used
        return bool(super().is_connected) and idle < KEPT_ALIVE_S


class _TimedTLSConnection(_TimedConnection, HTTPSConnection):
    """The same; HTTPSConnection comes after it, so `super()` there means TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _TimedConnection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TimedTLSConnection


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self) -> None:
        super().__init__(pool_connections=_POOLS, pool_maxsize=64, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
