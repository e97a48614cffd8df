"""A module whose code uses httpx: `SERVICE_PORT=8000 uvicorn examples.httpx_module:app --port 8000`."""

from __future__ import annotations

import httpx
from fastapi import FastAPI

from registry_admin.discovery import lifespan
from registry_admin.discovery.integrations.httpx import AsyncServiceTransport

app = FastAPI(lifespan=lifespan("httpx-module"))


@app.get("/health")
async def health() -> dict[str, str]:
    """Answers Consul's check."""
    return {"status": "ok"}


@app.get("/value/{symbol}")
async def value(symbol: str) -> dict[str, object]:
    """Returns the value of ten shares."""
    async with httpx.AsyncClient(transport=AsyncServiceTransport(), timeout=2) as client:
        response = await client.get(f"http://quotes.service/quotes/{symbol}")
    response.raise_for_status()
    return {"symbol": symbol, "value": 10 * response.json()["price"]}
