"""A TCP proxy that can be cut or frozen, for what a network does and a process can't be made to do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class FlakyProxy:
    """Passes bytes on to `target`; `cut` resets connections and refuses new ones, `freeze` holds them silent.

    With `choose`, it is a load balancer: `choose()` is the target of each connection.
    """

    def __init__(self, target: tuple[str, int], *, choose: Callable[[], tuple[str, int]] | None = None) -> None:
        self.choose = choose or (lambda: target)
        self._open = threading.Event()  # cleared: bytes wait
        self._open.set()
        self._refusing = self._closed = False
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.host, self.port = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def cut(self) -> None:
        """Ends every connection, and each new one as soon as it is accepted."""
        self._refusing = True
        self._end_connections()

    def freeze(self) -> None:
        """Accepts and keeps connections, but passes nothing on: half-open TCP."""
        self._open.clear()

    def restore(self) -> None:
        """Works again."""
        self._refusing = False
        self._open.set()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_connections()
        self._open.set()
        for thread in self._threads:
            thread.join(5)

    def _end_connections(self) -> None:
        with self._lock:
            for item in self._sockets:
                with contextlib.suppress(OSError):
                    item.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(self.choose(), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            both_done = threading.Barrier(2, action=lambda pair=(client, server): self._forget(*pair))
            for source, sink in ((client, server), (server, client)):
                thread = threading.Thread(target=self._pump, args=(source, sink, both_done), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, both_done: threading.Barrier) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        both_done.wait()

    def _forget(self, *pair: socket.socket) -> None:
        with self._lock:
            self._sockets -= set(pair)
        for item in pair:
            item.close()
