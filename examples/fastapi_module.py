"""A FastAPI module: `SERVICE_PORT=8000 uvicorn examples.fastapi_module:app --port 8000`."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException

from registry_admin.discovery import acall_service, lifespan
from registry_admin.discovery.asgi import PropagateContext
from registry_admin.errors import RegistryError

app = FastAPI(lifespan=lifespan("fastapi-module", tags=["example"]))
app.add_middleware(PropagateContext)  # the caller's deadline, ID and trace go along with the calls


@app.get("/health")
async def health() -> dict[str, str]:
    """Answers Consul's check."""
    return {"status": "ok"}


@app.get("/value/{symbol}")
async def value(symbol: str) -> dict[str, object]:
    """Returns the value of ten shares."""
    try:
        response = await acall_service("quotes", f"/quotes/{symbol}", timeout=2)
    except RegistryError as error:
        raise HTTPException(503, str(error)) from error
    if response.status_code == 404:
        raise HTTPException(404, f"There is no share {symbol}.")
    response.raise_for_status()
    return {"symbol": symbol, "value": 10 * response.json()["price"]}
