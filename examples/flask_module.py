"""A Flask module: `SERVICE_PORT=8000 python -m examples.flask_module`."""

from __future__ import annotations

import os
import uuid

from flask import Flask

from registry_admin.discovery import call_service, registered
from registry_admin.discovery.wsgi import WSGIPropagateContext

app = Flask(__name__)
app.wsgi_app = WSGIPropagateContext(app.wsgi_app)  # type: ignore[method-assign]


@app.get("/health")
def health() -> dict[str, str]:
    """Answers Consul's check."""
    return {"status": "ok"}


@app.get("/value/<symbol>")
def value(symbol: str) -> dict[str, object]:
    """Returns the value of ten shares."""
    response = call_service("quotes", f"/quotes/{symbol}", timeout=2)
    response.raise_for_status()
    return {"symbol": symbol, "value": 10 * response.json()["price"]}


@app.post("/orders/<symbol>")
def order(symbol: str) -> tuple[dict[str, object], int]:
    """Orders ten shares. With an Idempotency-Key the call is retried like a GET: quotes must know the key."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    response = call_service("quotes", f"/orders/{symbol}", method="POST", json={"number": 10}, headers=key)
    response.raise_for_status()
    return {"order": response.json()["id"]}, 201


if __name__ == "__main__":
    port = int(os.environ["SERVICE_PORT"])
    with registered("flask-module", port=port):
        app.run("127.0.0.1", port)
