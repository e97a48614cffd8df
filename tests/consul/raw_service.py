"""A service that says exactly what a test tells it to, byte by byte, as a hostile one would."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

Answer = Callable[[socket.socket], None] | bytes
OK = b"HTTP/1.1 200 OK\r\n"
FINE = OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nfine"


class RawService:
    """Reads a request's head, then gives the connection to `answer`; with `keep_open` it reads on after that.

    `heads` are those that came, as they were on the wire. `connections` counts also those on which nothing was said,
    and `ended` those that are over.
    """

    def __init__(self, answer: Answer, *, keep_open: bool = False) -> None:
        self._answer = answer
        self._keep_open = keep_open
        self.heads: list[bytes] = []
        self.connections = self.ended = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.host, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def requests(self) -> int:
        """How many heads came."""
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
        with contextlib.suppress(OSError), connection:
            while self._serve_one(connection) and self._keep_open:
                pass
        self.ended += 1

    def _serve_one(self, connection: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(65536)
            if not part:
                return False
            head += part
        self.heads.append(head.partition(b"\r\n\r\n")[0])
        if isinstance(self._answer, bytes):
            connection.sendall(self._answer)
        else:
            self._answer(connection)
        return True


def trickle(head: bytes, *, count: int = 300, every: float = 0.1) -> Callable[[socket.socket], None]:
    """Sends `head`, then `count` bytes one at a time: a reply that would end, but long after any deadline."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(count):
            connection.sendall(b"x")
            time.sleep(every)
        connection.sendall(b"\r\n\r\n")

    return answer


def endless(head: bytes, *, part: bytes = bytes(65536)) -> Callable[[socket.socket], None]:
    """Sends `head`, then `part` over and over until nobody listens any more."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(part)

    return answer
