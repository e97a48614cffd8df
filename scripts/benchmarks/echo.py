"""A minimal service for measurements: `python -m scripts.benchmarks.echo PORT`.

`GET /delay/MS` makes every later answer take so many milliseconds; anything else is answered with a small JSON object.
"""

from __future__ import annotations

import asyncio
import sys

BODY = b'{"status": "ok", "number": 42, "text": "something small"}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
DELAY = b"GET /delay/"


class Echo(asyncio.Protocol):
    """A connection for requests without a body."""

    delay_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implements asyncio.Protocol."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._incomplete = b""

    def data_received(self, data: bytes) -> None:
        """Implements asyncio.Protocol."""
        *heads, self._incomplete = (self._incomplete + data).split(b"\r\n\r\n")
        for head in heads:
            if head.startswith(DELAY):
                Echo.delay_s = int(head[len(DELAY) :].split(b" ", 1)[0]) / 1000
                self._transport.write(REPLY)
            elif self.delay_s:
                asyncio.get_running_loop().call_later(self.delay_s, self._transport.write, REPLY)
            else:
                self._transport.write(REPLY)


async def serve(port: int) -> None:
    """Serves until the process is killed."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
