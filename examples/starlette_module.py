"""A Starlette module: `SERVICE_PORT=8000 uvicorn examples.starlette_module:app --port 8000`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from registry_admin.discovery import ServiceDiscoveryClient, lifespan


class State(TypedDict):
    """What the application keeps while it runs."""

    client: ServiceDiscoveryClient


@contextlib.asynccontextmanager
async def open_client(_app: Starlette) -> AsyncIterator[State]:
    """Opens a client of the module's own, with options for all of its calls."""
    async with ServiceDiscoveryClient(timeout=2, max_attempts=2) as client:
        yield {"client": client}


async def health(_request: Request) -> Response:
    """Answers Consul's check."""
    return JSONResponse({"status": "ok"})


async def value(request: Request) -> Response:
    """Returns the value of ten shares."""
    symbol = request.path_params["symbol"]
    response = await request.state.client.get("quotes", f"/quotes/{symbol}")
    response.raise_for_status()
    return JSONResponse({"symbol": symbol, "value": 10 * response.json()["price"]})


async def history(request: Request) -> Response:
    """Passes a list on, line by line, while it is received."""
    symbol = request.path_params["symbol"]
    return StreamingResponse(_lines(request.state.client, symbol), media_type="text/csv")


async def _lines(client: ServiceDiscoveryClient, symbol: str) -> AsyncIterator[bytes]:
    async with await client.stream("quotes", f"/quotes/{symbol}/history", timeout=60) as response:
        async for line in response.aiter_lines():
            yield line + b"\n"


app = Starlette(
    routes=[
        Route("/health", health),
        Route("/value/{symbol}", value),
        Route("/history/{symbol}", history),
    ],
    lifespan=lifespan("starlette-module", wrap=open_client),
)
