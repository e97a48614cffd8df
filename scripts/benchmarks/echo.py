"""A service as small as can be, for measurements: `python -m scripts.benchmarks.echo PORT`.

`GET /delay/MS` makes every later answer take so many milliseconds; anything else is answered with a small JSON object.
"""

from __future__ import annotations

import asyncio
import sys

BODY = b'{"status": "ok", "number": 42, "text": "something small"}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
DELAY = b"GET /delay/"


class Echo(asyncio.Protocol):
    """One connection; requests without a body only."""

    delay_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in heads:
            if head.startswith(DELAY):
                Echo.delay_s = int(head[len(DELAY) :].split(b" ", 1)[0]) / 1000
                self._transport.write(REPLY)
            elif self.delay_s:
                asyncio.get_running_loop().call_later(self.delay_s, self._transport.write, REPLY)
            else:
                self._transport.write(REPLY)


async def serve(port: int) -> None:
    """Until it is killed."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
