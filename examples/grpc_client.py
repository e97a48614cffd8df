"""A Flask module that calls a gRPC service: `SERVICE_PORT=8000 python -m examples.grpc_client`."""

from __future__ import annotations

import json
import os
from typing import Any

from flask import Flask

from registry_admin.discovery import registered
from registry_admin.discovery.integrations.grpc import ServiceChannels

app = Flask(__name__)
quotes = ServiceChannels("quotes-grpc")  # one for the process, which shares its channels


def price(channel: Any, symbol: str) -> float:
    """Asks for a price. With protobuf this is `QuotesStub(channel).GetPrice(request, timeout=2)`."""
    get_price = channel.unary_unary("/quotes.Quotes/GetPrice")
    return float(json.loads(get_price(symbol.encode(), timeout=2)))


@app.get("/health")
def health() -> dict[str, str]:
    """Answers Consul's check."""
    return {"status": "ok"}


@app.get("/value/<symbol>")
def value(symbol: str) -> dict[str, object]:
    """Returns the value of ten shares."""
    with quotes.pick() as channel:
        return {"symbol": symbol, "value": 10 * price(channel, symbol)}


if __name__ == "__main__":
    port = int(os.environ["SERVICE_PORT"])
    with registered("grpc-client", port=port):
        app.run("127.0.0.1", port)
