"""Connections to instances: every wait on one ends at the deadline, and only what is beyond doubt is used again."""

from __future__ import annotations

import io
import math
import os
import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection

CONNECT_TIMEOUT_S = 2.0
KEPT_ALIVE_S = 1.5  # below gunicorn's 2 s and uvicorn's 5 s: a call must not meet a server that is just hanging up
_KEPT = 64  # idle connections for each instance
_INSTANCES = 256  # whose connections are kept


class _Wire(io.RawIOBase):
    """A socket's bytes, each wait for which ends at the deadline: a byte a second doesn't start it anew."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self.deadline:
            return None  # nothing is being read
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        return self.sock.recv_into(buffer)


class _Stream(io.BufferedReader):
    """Outlives each of the replies that are read from it, though each closes it."""

    def close(self) -> None:
        pass


class Connection:
    """To the instance at `root`; raises OSError or urllib3's HTTPError where it can't be opened before the deadline."""

    def __init__(self, root: str, *, deadline: float, verify: bool | str) -> None:
        timeout = min(CONNECT_TIMEOUT_S, deadline - time.monotonic())
        if timeout <= 0:
            raise TimeoutError
        parts = urlsplit(root)
        host, port = parts.hostname or "", parts.port
        self._http: HTTPConnection
        if parts.scheme == "https":
            self._http = HTTPSConnection(
                host,
                port,
                timeout=timeout,
                cert_reqs="CERT_REQUIRED" if verify else "CERT_NONE",
                assert_hostname=None if verify else False,
                ca_certs=verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH if verify else None,
            )
        else:
            self._http = HTTPConnection(host, port, timeout=timeout)
        try:
            self._http.connect()
        except BaseException:
            self._http.close()
            raise
        self.sock: socket.socket = self._http.sock
        self._wire = _Wire(self.sock)
        self._stream = _Stream(self._wire)
        self.sent_at = 0.0

    def send(self, head: bytes, body: bytes | None, *, deadline: float) -> None:
        """Sends a request; from now on everything is over at the deadline."""
        self._wire.deadline = deadline
        self.sent_at = now = time.monotonic()
        if deadline <= now:
            raise TimeoutError
        self.sock.settimeout(deadline - now)
        try:
            self.sock.sendall(head + body if body else head)
        except (BrokenPipeError, ConnectionResetError):
            if not self.is_readable:  # else it has answered before it had heard everything
                raise

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What http.client asks of a socket."""
        return self._stream

    @property
    def has_pending(self) -> bool:
        """Whether TLS has something that the socket doesn't show any more."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    @property
    def is_readable(self) -> bool:
        """Whether something came, be it the end."""
        return self.has_pending or bool(readable([self.sock], 0.0))

    def may_be_reused(self) -> bool:
        """False where it was idle for so long that the other side may be hanging up, or said what nobody asked for."""
        if time.monotonic() - self.sent_at >= KEPT_ALIVE_S or self.is_readable:
            return False
        self._wire.deadline = 0.0
        return not self._stream.peek(1)

    def close(self) -> None:
        """Ends it."""
        self._http.close()


class Connections:
    """Idle connections by the instance's root, for any number of threads; a forked child begins with none."""

    def __init__(self, *, verify: bool | str) -> None:
        self._verify = verify
        self._idle: dict[str, deque[Connection]] = {}
        self._pid = os.getpid()
        weakref.finalize(self, _end, self._idle)

    def take(self, root: str, *, deadline: float) -> Connection:
        """An idle one, the one used last first, or a new one; raises what Connection raises."""
        if self._pid != os.getpid():
            self.close()  # our copies: the parent goes on with its own
            self._pid = os.getpid()  # only now: until then no thread may take one
        idle = self._idle.get(root)
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread took it
                break
            if connection.may_be_reused():
                return connection
            connection.close()
        return Connection(root, deadline=deadline, verify=self._verify)

    def give_back(self, root: str, connection: Connection) -> None:
        """It may be used again."""
        idle = self._idle.get(root)
        if idle is None:
            if len(self._idle) >= _INSTANCES:
                self.close()
            idle = self._idle.setdefault(root, deque())
        if len(idle) < _KEPT:
            idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Ends the idle ones."""
        _end(self._idle)


def _end(everything: dict[str, deque[Connection]]) -> None:
    for root in list(everything):
        idle = everything.pop(root, deque())
        while idle:
            idle.pop().close()


def readable(sockets: Sequence[socket.socket], within_s: float) -> list[socket.socket]:
    """Those that have something to read, or have ended, as soon as there is one."""
    if not hasattr(select, "poll"):
        return select.select(sockets, [], [], within_s)[0]
    poller, by_number = select.poll(), {sock.fileno(): sock for sock in sockets}
    for number in by_number:
        poller.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poller.poll(math.ceil(within_s * 1000))]
