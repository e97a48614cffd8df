"""backend-api: publishes cards, and shows how a FastAPI module registers itself with one line.

Run it as `gunicorn backend_stub.main:app -k uvicorn_worker.UvicornWorker -b 127.0.0.1:8000`, with one worker: the cards
are kept in memory, so several workers would each have their own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import secrets
from collections import deque
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from registry_admin.discovery import lifespan
from registry_admin.discovery.asgi import PropagateContext

MAX_BODY = 64 * 1024  # bytes
MAX_CARDS = 1000  # the oldest are dropped

os.environ.setdefault("SERVICE_NAME", "backend-api")
os.environ.setdefault("SERVICE_PORT", "8000")

registration = lifespan()
app = FastAPI(title="backend-api", lifespan=registration)
app.add_middleware(PropagateContext)
cards: deque[dict[str, Any]] = deque(maxlen=MAX_CARDS)


@app.get("/health")
async def health() -> dict[str, str]:
    """Answers Consul's health check."""
    return {"status": "ok"}


@app.get("/cards")
async def list_cards() -> list[dict[str, Any]]:
    """Lists the cards that were published here, the newest first."""
    return list(reversed(cards))


@app.post("/publish", status_code=201)
async def publish(request: Request) -> Response:
    """Keeps the JSON object or form as a card and returns it; 413 above 64 KiB, 422 for anything else.

    With an Idempotency-Key, the card's ID depends on the key alone. A caller that got no reply may send the card again,
    here or to another instance, and it stays one card.
    """
    fields = await _fields(request)
    key = request.headers.get("Idempotency-Key")
    card_id = hashlib.sha256(key.encode()).hexdigest()[:16] if key else secrets.token_hex(8)
    existing = next((card for card in cards if card["id"] == card_id), None)
    if existing is not None:
        return JSONResponse(existing, status_code=201)
    card = {
        "title": "Untitled",
        **fields,
        "id": card_id,
        "served_by": registration.service_id or os.environ["SERVICE_NAME"],
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
    }
    cards.append(card)
    return JSONResponse(card, status_code=201)


async def _fields(request: Request) -> dict[str, Any]:
    body = await _body(request)
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_form = kind in ("application/x-www-form-urlencoded", "multipart/form-data")
    fields = await _form(request, body) if is_form else _json(body)
    if not isinstance(fields, dict) or not fields:
        raise HTTPException(422, 'Send an object that is not empty, such as {"title": "Test"}, as JSON or as a form.')
    return fields


async def _body(request: Request) -> bytes:
    """Returns the whole body; stops reading at the limit."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"Send at most {MAX_BODY} bytes.")
    return bytes(body)


def _json(body: bytes) -> Any:
    try:
        value = json.loads(body)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # a reply has to hold it
    except (ValueError, RecursionError):
        raise HTTPException(422, "The body is not JSON.") from None
    return value


async def _form(request: Request, body: bytes) -> dict[str, str]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, receive).form(max_files=0, max_fields=100)
    except (StarletteHTTPException, ValueError):
        raise HTTPException(422, "The form can't be read; files are not taken.") from None
    return {name: value for name, value in form.items() if isinstance(value, str)}
