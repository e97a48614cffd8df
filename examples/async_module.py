"""asyncio without a framework: `SERVICE_PORT=8000 python -m examples.async_module`."""

from __future__ import annotations

import asyncio
import json
import os

from registry_admin.discovery import acall_service, registered


async def price(symbol: str) -> float:
    """Returns the price of a share."""
    response = await acall_service("quotes", f"/quotes/{symbol}", timeout=2)
    response.raise_for_status()
    return float(response.json()["price"])


async def values(symbols: list[str]) -> dict[str, float]:
    """Returns the values of ten shares of each, asked for at the same time."""
    prices = await asyncio.gather(*(price(symbol) for symbol in symbols))
    return {symbol: 10 * each for symbol, each in zip(symbols, prices, strict=True)}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a request: `/health`, or `/value/A,B,C`."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    path = head.split()[1]
    symbols = path.rpartition("/")[2].split(",")
    body = {"status": "ok"} if path == "/health" else {"values": await values(symbols)}
    content = json.dumps(body).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
    await writer.drain()
    writer.close()


async def main() -> None:
    """Serves until the process is stopped."""
    port = int(os.environ["SERVICE_PORT"])
    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        with registered("async-module", port=port):
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
