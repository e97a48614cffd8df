"""A plain script, with a thread that answers Consul's check: `SERVICE_PORT=8000 python -m examples.script`."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from registry_admin.discovery import call_service, registered


def value(symbol: str) -> dict[str, object]:
    """Returns the value of ten shares."""
    response = call_service("quotes", f"/quotes/{symbol}", timeout=2)
    response.raise_for_status()
    return {"symbol": symbol, "value": 10 * response.json()["price"]}


class Handler(BaseHTTPRequestHandler):
    """Answers `/health` and `/value/SYMBOL`."""

    def do_GET(self) -> None:
        """Answers a GET."""
        body = {"status": "ok"} if self.path == "/health" else value(self.path.rpartition("/")[2])
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    port = int(os.environ["SERVICE_PORT"])
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server, registered("script", port=port):
        server.serve_forever()
