"""A FastAPI module that opens a WebSocket: `SERVICE_PORT=8000 uvicorn examples.websocket_client:app --port 8000`."""

from __future__ import annotations

import json

import websockets
from fastapi import FastAPI

from registry_admin.discovery import ServiceDiscoveryClient, lifespan

app = FastAPI(lifespan=lifespan("websocket-client"))
client = ServiceDiscoveryClient()
FAILURES = (OSError, websockets.WebSocketException)  # count against the instance, which is then left out for a while


@app.get("/health")
async def health() -> dict[str, str]:
    """Answers Consul's check."""
    return {"status": "ok"}


@app.get("/value/{symbol}")
async def value(symbol: str) -> dict[str, object]:
    """Returns the value of ten shares, by the next price that comes."""
    async with (
        client.pick("quotes-feed", failures=FAILURES) as instance,
        websockets.connect(f"ws://{instance.host_port}/feed/{symbol}") as feed,
    ):
        return {"symbol": symbol, "value": 10 * json.loads(await feed.recv())["price"]}
