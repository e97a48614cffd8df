"""The examples as processes: each registers itself in a real Consul, calls its service, and leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests

from registry_admin.consul import CheckKind, CheckSpec, ServiceRegistry, ServiceSpec
from tests.parts import HttpService, ReceivedRequest, wait_until
from tests.parts.servers import Server

pytestmark = pytest.mark.system
pytest.importorskip("celery")
UVICORN = ("--host", "127.0.0.1", "--port", "{port}")
MODULES = {
    "fastapi-module": ("uvicorn", "examples.fastapi_module:app", *UVICORN),
    "django-module": (
        "gunicorn",
        "--no-control-socket",
        "-b",
        "127.0.0.1:{port}",
        "examples.django_module:application",
    ),
    "flask-module": ("examples.flask_module",),
    "starlette-module": ("uvicorn", "examples.starlette_module:app", *UVICORN),
    "async-module": ("examples.async_module",),
    "script": ("examples.script",),
    "grpc-client": ("examples.grpc_client",),
    "websocket-client": ("uvicorn", "examples.websocket_client:app", *UVICORN),
    "httpx-module": ("uvicorn", "examples.httpx_module:app", *UVICORN),
}
CELERY = ("celery", "-A", "examples.celery_module", "worker", "--pool", "solo", "--without-mingle", "--without-gossip")


@pytest.fixture
def offer(registry: ServiceRegistry) -> Callable[[str, int], None]:
    """`offer(name, port)`: registers a service that examples call."""

    def register(name: str, port: int) -> None:
        check = CheckSpec(kind=CheckKind.NONE)
        registry.register(ServiceSpec(name=name, address="127.0.0.1", port=port, check=check))

    return register


@pytest.fixture
def services(
    offer: Callable[[str, int], None], http_service: Callable[..., HttpService], grpc_port: int, feed_port: int
) -> None:
    """Starts and registers the services that examples call."""

    def answer(handler: BaseHTTPRequestHandler, request: ReceivedRequest) -> None:
        body = json.dumps({"symbol": request.path.rpartition("/")[2], "price": 12.5}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    offer("quotes", http_service(answer=answer).port)
    offer("quotes-grpc", grpc_port)
    offer("quotes-feed", feed_port)


@pytest.fixture
def grpc_port() -> Iterator[int]:
    import grpc

    server = grpc.server(ThreadPoolExecutor(2))
    get_price = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"12.5")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("quotes.Quotes", {"GetPrice": get_price}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait(5)


@pytest.fixture
def feed_port() -> Iterator[int]:
    from websockets.sync.server import serve as serve_websockets

    with serve_websockets(lambda feed: feed.send('{"price": 12.5}'), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


def value_of(server: Server) -> Any:
    reply = requests.get(f"{server.url}/value/ACME", timeout=5)
    return reply.json() if reply.ok else reply.text


def test_every_module_registers_itself_calls_its_service_and_leaves(
    serve: Callable[..., Server], services: None
) -> None:
    servers = {name: serve(*command, name=name) for name, command in MODULES.items()}
    for name, server in servers.items():
        wait_until(lambda server=server: server.health() == "passing", 25, f"{name} to pass its check")
        expected = {"values": {"ACME": 125}} if name == "async-module" else {"symbol": "ACME", "value": 125}
        assert value_of(server) == expected, name
    for server in servers.values():
        server.process.terminate()
    for name, server in servers.items():
        server.process.wait(20)
        assert not server.is_registered(), name


def test_celery_worker_registers_itself_calls_its_service_and_leaves(
    serve: Callable[..., Server], services: None, tmp_path: Path
) -> None:
    folder, results = tmp_path / "tasks", tmp_path / "results"
    folder.mkdir()
    results.mkdir()
    environ = {
        "CELERY_BROKER_URL": "filesystem://",
        "CELERY_BROKER_FOLDER": str(folder),
        "CELERY_RESULT_BACKEND": f"file://{results}",
    }
    server = serve(*CELERY, name="celery-module", environ=environ)
    wait_until(lambda: server.health() == "passing", 25, "the worker to report")
    from celery import Celery

    client = Celery(broker="filesystem://", backend=f"file://{results}")
    folders = ("data_folder_in", "data_folder_out", "control_folder")
    client.conf.broker_transport_options = dict.fromkeys(folders, str(folder))
    with client:
        assert client.send_task("examples.celery_module.value", ["ACME"]).get(timeout=15) == 125
    server.process.terminate()
    server.process.wait(20)
    assert not server.is_registered()
