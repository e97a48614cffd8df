"""A service that sends the exact bytes of a test, as a hostile one would."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable

Answer = Callable[[socket.socket], None] | bytes
OK = b"HTTP/1.1 200 OK\r\n"
FINE = OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nfine"


class RawService:
    """Reads a request's head, then calls `answer` with the connection; with `keep_open` it reads further heads.

    With `tls` it speaks HTTPS.

    `heads` are the received ones, as bytes, and `received_body` what came with the last. `connections` counts all that
    were accepted, and `ended` the closed ones.
    """

    def __init__(self, answer: Answer, *, keep_open: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._keep_open = keep_open
        self._tls = tls
        self.heads: list[bytes] = []
        self.received_body = b""
        self.connections = self.ended = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.host, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def requests(self) -> int:
        """Number of received heads."""
        return len(self.heads)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self._tls is not None:
                try:
                    connection = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
                except ssl.SSLError:
                    time.sleep(0.5)  # so that its alert is read before the reset
                    raise
            while self._serve_request(connection) and self._keep_open:
                pass
        self.ended += 1

    def _serve_request(self, connection: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(65536)
            if not part:
                return False
            head += part
        head, _, self.received_body = head.partition(b"\r\n\r\n")
        self.heads.append(head)
        if isinstance(self._answer, bytes):
            connection.sendall(self._answer)
        else:
            self._answer(connection)
        return True


def trickle(head: bytes, *, count: int = 300, every: float = 0.1) -> Callable[[socket.socket], None]:
    """Returns an answer that sends `head`, then `count` single bytes: it ends, but long after any deadline."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(count):
            connection.sendall(b"x")
            time.sleep(every)
        connection.sendall(b"\r\n\r\n")

    return answer


def endless(head: bytes, *, part: bytes = bytes(65536)) -> Callable[[socket.socket], None]:
    """Returns an answer that sends `head`, then `part` again and again until the client hangs up."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(part)

    return answer
