"""A plain script that serves in threads until a signal ends it: `threads`, `handler` or `asyncio`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from registry_admin.discovery import Registration, registered

PORT = int(os.environ["SERVICE_PORT"])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(self.path == "/slow")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_arguments: object) -> None: ...


class Server(ThreadingHTTPServer):
    daemon_threads = False  # requests are finished when the server is closed
    request_queue_size = 128


def threads() -> None:
    """Ends by the default of its signal."""
    with registered():
        Server(("127.0.0.1", PORT), Handler).serve_forever()


def handler() -> None:
    """Has a handler of its own, set after the registration, and drains."""
    server, stopped = Server(("127.0.0.1", PORT), Handler), threading.Event()
    with registered():
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        signal.signal(signal.SIGINT, lambda *_: stopped.set())
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        stopped.wait()
    server.shutdown()
    server.server_close()


async def serve_until_stopped() -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(task := asyncio.current_task())
        task.add_done_callback(answering.discard)
        head = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(b"/slow" in head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", PORT, backlog=128)
    await stopped.wait()
    server.close()
    await asyncio.gather(*answering)


def in_asyncio() -> None:
    """Sets its handlers in an event loop."""
    registration = Registration().start()
    asyncio.run(serve_until_stopped())
    registration.stop()


if __name__ == "__main__":
    {"threads": threads, "handler": handler, "asyncio": in_asyncio}[sys.argv[1]]()
