"""Connections of the synchronous transport: each wait ends at the deadline, and only surely idle ones are reused."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from registry_admin.discovery.http.framing import NoReplyError, TruncatedReplyError
from registry_admin.discovery.http.reader import ResponseReader
from registry_admin.discovery.http.resolver import Address, resolve
from registry_admin.discovery.http.tls import is_truncation, tls_context
from registry_admin.discovery.http.upload import UPLOAD_PART, Upload

CONNECT_TIMEOUT_S = 2.0
IDLE_TIMEOUT_S = 1.5  # below gunicorn's 2 s and uvicorn's 5 s: a call must not meet a server that is just hanging up
MAX_IDLE_TLS = 128  # connections in all; OpenSSL holds about 300 KiB for each
RECEIVE_SIZE = 64 * 1024  # bytes
_MAX_IDLE_PER_INSTANCE = 64
_MAX_INSTANCES = 256
_IN_PROGRESS = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY}
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """An open connection to the instance at `base_url`, whose socket never blocks.

    Raises OSError where it can't be opened before `deadline` (of `time.monotonic`).
    """

    __slots__ = ("_early", "_readable", "_send", "idle_timeout_s", "is_reused", "is_sent", "is_tls", "sent_at", "sock")

    def __init__(self, base_url: str, *, deadline: float, verify: bool | str) -> None:
        until = min(deadline, time.monotonic() + CONNECT_TIMEOUT_S)
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        self.is_tls = parts.scheme == "https"
        self.sock = _dial(resolve(host, parts.port or (443 if self.is_tls else 80), deadline=until), until=until)
        if self.is_tls:
            self.sock = _start_tls(self.sock, host, until=until, verify=verify)
        self._readable = _poller(self.sock)
        self._early: bytes | None = None  # read before it was asked for; b"" is the end
        self._send: Callable[[bytes | memoryview], int] = self.sock.send
        self.sent_at = 0.0
        self.idle_timeout_s = IDLE_TIMEOUT_S
        self.is_reused = False
        self.is_sent = True

    def send(self, head: bytes, body: bytes | Upload | None, *, deadline: float) -> None:
        """Sends a request before the deadline, or as much of it as the instance takes before it replies."""
        self.sent_at = now = time.monotonic()
        if deadline <= now:
            raise TimeoutError
        try:
            if body is None or (isinstance(body, bytes) and len(body) <= UPLOAD_PART):
                self.is_sent = self._send_part(head + body if body else head, deadline=deadline)
            else:
                self.is_sent = self._send_part(head, deadline=deadline) and self._send_body(body, deadline=deadline)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            self.is_sent = False
            if not self.is_readable:  # else the instance has replied, or said why it hangs up
                raise

    def _send_body(self, body: bytes | Upload, *, deadline: float) -> bool:
        sent = 0
        while sent < len(body):
            part = body.read_part(sent) if isinstance(body, Upload) else memoryview(body)[sent : sent + UPLOAD_PART]
            if self._has_reply() or not self._send_part(part, deadline=deadline):
                return False
            sent += len(part)
        return True

    def _send_part(self, part: bytes | memoryview, *, deadline: float) -> bool:
        """Returns False if the instance has replied meanwhile; then it isn't reading any further."""
        try:
            sent = self._send(part)
        except _WOULD_BLOCK:
            sent = 0
        if sent == len(part):
            return True
        rest = memoryview(part)
        while sent < len(part):
            wait_ready(self.sock, for_writing=True, deadline=deadline)
            if self._has_reply():
                return False
            try:
                sent += self._send(rest[sent:])
            except _WOULD_BLOCK:
                continue
        return True

    def receive(self, reader: ResponseReader, *, deadline: float) -> float:
        """Reads a response to its end; returns the time of `time.monotonic` at which its head was there."""
        head_at = 0.0
        while True:
            is_complete = self.receive_part(reader, deadline=deadline)
            if not head_at and reader.head.status:
                head_at = time.monotonic()
            if is_complete:
                return head_at or time.monotonic()

    def receive_part(self, reader: ResponseReader, *, deadline: float) -> bool:
        """Reads what has come of a response, at least a byte; returns whether it is complete."""
        while True:
            data, blocked_by = self._receive_bytes(reader)
            if data is None:
                if blocked_by is not None:
                    wait_ready(self.sock, for_writing=True, deadline=deadline)
                elif not self._readable(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                continue
            if not data:
                reader.feed_eof()
                return True
            if reader.feed(data):
                return True
            if time.monotonic() >= deadline:  # a peer that sends without a pause meets the deadline, too
                raise TimeoutError
            return False

    def _receive_bytes(self, reader: ResponseReader) -> tuple[bytes | None, ssl.SSLWantWriteError | None]:
        """Returns received bytes, empty at the end; None if none have come, and what TLS waits for instead, if so."""
        if self._early is not None:
            return self._take_early(), None
        try:
            return self.sock.recv(RECEIVE_SIZE), None
        except (BlockingIOError, ssl.SSLWantReadError):
            return None, None
        except ssl.SSLWantWriteError as error:
            return None, error
        except ssl.SSLError as error:
            if not is_truncation(error):
                raise
            raise TruncatedReplyError("end") if reader.has_begun else NoReplyError("end") from None

    def _take_early(self) -> bytes:
        data, self._early = self._early or b"", None
        return data

    def _has_reply(self) -> bool:
        """Returns whether the instance has sent something, or has ended; a session ticket of TLS is nothing."""
        if self._early is not None:
            return True
        if not self.is_readable:
            return False
        if self.is_tls:
            try:
                self._early = self.sock.recv(RECEIVE_SIZE)
            except _WOULD_BLOCK:
                return False
            except OSError:
                self._early = b""
        return True

    @property
    def has_pending(self) -> bool:
        """True if decrypted bytes of TLS wait, which the socket doesn't show any more."""
        return self.is_tls and (
            self._early is not None or (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0)
        )

    @property
    def is_readable(self) -> bool:
        """True if bytes have come, or the end of the connection."""
        return self.has_pending or self._readable(0.0)

    def wait_readable(self, *, timeout_s: float) -> bool:
        """Returns whether bytes have come, or the end of the connection, within the time."""
        return self.has_pending or self._readable(timeout_s)

    @property
    def is_reusable(self) -> bool:
        """False if the instance may be hanging up after the idle time, or has sent bytes that no request asked for."""
        return time.monotonic() - self.sent_at < self.idle_timeout_s and not self._has_reply()

    def close(self) -> None:
        """Closes the socket."""
        self.sock.close()


def _dial(addresses: Sequence[Address], *, until: float) -> socket.socket:
    """Returns a socket that is connected to the first address that answers."""
    failure: OSError = TimeoutError()
    for number, (family, address) in enumerate(addresses):
        now = time.monotonic()
        deadline = now + (until - now) / (len(addresses) - number)  # an address that is silent leaves time for the next
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(0.0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(address)
            if code in _IN_PROGRESS:
                wait_ready(sock, for_writing=True, deadline=deadline)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return sock
            failure = OSError(code, os.strerror(code))
        except OSError as error:
            failure = error
        except BaseException:
            sock.close()
            raise
        sock.close()
    raise failure


def _start_tls(sock: socket.socket, host: str, *, until: float, verify: bool | str) -> ssl.SSLSocket:
    try:
        secure = tls_context(verify).wrap_socket(
            sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
    except BaseException:
        sock.close()
        raise
    try:
        while True:
            try:
                secure.do_handshake()
            except _WOULD_BLOCK as error:
                for_writing = isinstance(error, ssl.SSLWantWriteError)
            else:
                return secure
            wait_ready(secure, for_writing=for_writing, deadline=until)
    except BaseException:
        secure.close()
        raise


class ConnectionPool:
    """Idle connections by the instance's base URL, for any number of threads. A forked child starts without any."""

    def __init__(self, *, verify: bool | str) -> None:
        self._verify = verify
        self._idle: dict[str, deque[Connection]] = {}
        self._pid = os.getpid()
        weakref.finalize(self, _close_all, self._idle)

    def acquire(self, base_url: str, *, deadline: float) -> Connection:
        """Returns the idle connection that was used last, or a new one; raises the errors of Connection."""
        if self._pid != os.getpid():
            self.close()  # this process's copies: the parent goes on with its own
            self._pid = os.getpid()  # set last: until then no thread may acquire one
        idle = self._idle.get(base_url)
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                break
            if connection.is_reusable:
                connection.is_reused = True
                return connection
            connection.close()
        return self.open(base_url, deadline=deadline)

    def open(self, base_url: str, *, deadline: float) -> Connection:
        """Returns a new connection; raises the errors of Connection."""
        return Connection(base_url, deadline=deadline, verify=self._verify)

    def release(self, base_url: str, connection: Connection, *, idle_hint_s: int | None) -> None:
        """Keeps the connection for reuse, or closes it where enough are idle.

        `idle_hint_s` is for how long the server says that it keeps it; a second less is on the safe side.
        """
        if idle_hint_s is not None:
            connection.idle_timeout_s = min(IDLE_TIMEOUT_S, idle_hint_s - 1)
        idle = self._idle.get(base_url)
        if idle is None:
            if len(self._idle) >= _MAX_INSTANCES:
                self.close()
            idle = self._idle.setdefault(base_url, deque())
        if len(idle) >= _MAX_IDLE_PER_INSTANCE or (connection.is_tls and self._is_full_of_tls()):
            connection.close()
        else:
            idle.append(connection)

    def _is_full_of_tls(self) -> bool:
        return sum(len(idle) for url, idle in list(self._idle.items()) if url.startswith("https:")) >= MAX_IDLE_TLS

    def close(self) -> None:
        """Closes the idle connections."""
        _close_all(self._idle)


def _close_all(idle_by_url: dict[str, deque[Connection]]) -> None:
    for base_url in list(idle_by_url):
        idle = idle_by_url.pop(base_url, deque())
        while idle:
            idle.pop().close()


def wait_ready(sock: socket.socket, *, for_writing: bool = False, deadline: float) -> None:
    """Waits until the socket can be read or written, or has ended; raises TimeoutError at the deadline."""
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    if not _poller(sock, for_writing=for_writing)(remaining_s):
        raise TimeoutError


def _poller(sock: socket.socket, *, for_writing: bool = False) -> Callable[[float], bool]:
    """Returns a function that waits the given seconds for the socket and returns whether it is ready.

    `for_writing`: ready too when a plain connection can be read, because an instance that has replied may read no more.
    """
    for_reading = not for_writing or not isinstance(sock, ssl.SSLSocket)
    if not hasattr(select, "poll"):

        def wait_by_select(timeout_s: float) -> bool:
            readers, writers = [sock] if for_reading else [], [sock] if for_writing else []
            return any(select.select(readers, writers, [], timeout_s))

        return wait_by_select
    poller = select.poll()
    poller.register(sock, (select.POLLOUT if for_writing else 0) | (select.POLLIN if for_reading else 0))
    poll, ceil = poller.poll, math.ceil

    def wait_by_poll(timeout_s: float) -> bool:
        return bool(poll(ceil(timeout_s * 1000)))

    return wait_by_poll


def wait_any_readable(sockets: Sequence[socket.socket], *, timeout_s: float) -> list[socket.socket]:
    """Returns the sockets that have bytes to read, or have ended, once there is one; empty after `timeout_s`."""
    if not hasattr(select, "poll"):
        return select.select(sockets, [], [], timeout_s)[0]
    poller, by_number = select.poll(), {sock.fileno(): sock for sock in sockets}
    for number in by_number:
        poller.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poller.poll(math.ceil(timeout_s * 1000))]
