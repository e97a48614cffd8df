"""Unit tests of the examples: the services that they call are fakes, so that nothing is needed beside Python."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry_admin.discovery import ServiceDiscoveryClient, call_service
from registry_admin.discovery.testing import FakeRequest, FakeResponse

for library in ("celery", "flask", "grpc", "httpx", "websockets"):
    pytest.importorskip(library)
FakeServices = Callable[[Mapping[str, Any]], None]


def quotes(request: FakeRequest) -> Any:
    """Answers as the real service does."""
    if request.path.startswith("/orders/"):
        return {"id": f"order for {request.json['number']}, {len(request.headers['Idempotency-Key'])} letters"}
    if request.path.endswith("/history"):
        return "2026-11-26,12\n2026-11-27,12.5\n"
    symbol = request.path.rpartition("/")[2]
    return {"symbol": symbol, "price": 12.5} if symbol == "ACME" else FakeResponse(status=404)


@pytest.mark.parametrize("name", ["fastapi_module", "flask_module", "httpx_module", "starlette_module"])
def test_module_returns_the_value_of_ten_shares(fake_services: FakeServices, name: str) -> None:
    module = pytest.importorskip(f"examples.{name}")
    app = module.app if name != "starlette_module" else with_state(module.app, ServiceDiscoveryClient())
    fake_services({"quotes": quotes, "module": app})
    assert call_service("module", "/health").json() == {"status": "ok"}
    assert call_service("module", "/value/ACME").json() == {"symbol": "ACME", "value": 125}


def test_fastapi_module_tells_an_unknown_share_from_a_service_that_is_down(fake_services: FakeServices) -> None:
    from examples.fastapi_module import app
    from registry_admin.discovery.testing import Unreachable

    fake_services({"quotes": quotes, "module": app})
    assert call_service("module", "/value/OTHER").status_code == 404
    fake_services({"quotes": Unreachable(), "module": app})
    assert call_service("module", "/value/ACME").json()["detail"].startswith("The call to 'quotes' failed")


def test_django_module_returns_the_value_of_ten_shares(fake_services: FakeServices, client: Any, settings: Any) -> None:
    settings.ROOT_URLCONF, settings.MIDDLEWARE = "examples.django_module", []
    fake_services({"quotes": quotes})
    assert client.get("/value/ACME").json() == {"symbol": "ACME", "value": 125}
    assert client.get("/value/OTHER").status_code == 404


def test_flask_module_orders_with_a_key(fake_services: FakeServices) -> None:
    from examples.flask_module import app

    fake_services({"quotes": quotes})
    response = app.test_client().post("/orders/ACME")
    assert (response.status_code, response.json) == (201, {"order": "order for 10, 32 letters"})


def test_celery_task_returns_the_value_of_ten_shares(fake_services: FakeServices) -> None:
    from examples.celery_module import value

    fake_services({"quotes": quotes})
    assert value("ACME") == 125


def test_starlette_module_passes_lines_on(fake_services: FakeServices) -> None:
    from examples.starlette_module import app

    fake_services({"quotes": quotes, "module": with_state(app, ServiceDiscoveryClient())})
    assert call_service("module", "/history/ACME").text == "2026-11-26,12\n2026-11-27,12.5\n"


def test_async_module_asks_for_all_prices(fake_services: FakeServices) -> None:
    from examples.async_module import values

    fake_services({"quotes": lambda request: {"price": len(request.path)}})
    assert asyncio.run(values(["A", "ACME"])) == {"A": 90, "ACME": 120}


def test_script_returns_the_value_of_ten_shares(fake_services: FakeServices) -> None:
    from examples.script import value

    fake_services({"quotes": quotes})
    assert value("ACME") == {"symbol": "ACME", "value": 125}


@pytest.mark.network
def test_grpc_client_returns_the_value_of_ten_shares(fake_services: FakeServices, grpc_quotes: str) -> None:
    from examples.grpc_client import app

    fake_services({"quotes-grpc": grpc_quotes})
    assert app.test_client().get("/value/ACME").json == {"symbol": "ACME", "value": 125}


@pytest.mark.network
def test_websocket_client_returns_the_value_of_ten_shares(fake_services: FakeServices) -> None:
    import websockets

    from examples.websocket_client import value

    async def run() -> dict[str, object]:
        async with websockets.serve(lambda feed: feed.send('{"price": 12.5}'), "127.0.0.1", 0) as server:
            fake_services({"quotes-feed": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"})
            return await value("ACME")

    assert asyncio.run(run()) == {"symbol": "ACME", "value": 125}


def with_state(app: Any, client: Any) -> Any:
    """Returns the application with the state that its lifespan would make, which doesn't run in a fake."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": {"client": client}}, receive, send)

    return wrapped


@pytest.fixture
def grpc_quotes() -> Iterator[str]:
    """A gRPC server in this process, as a URL."""
    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    get_price = grpc.unary_unary_rpc_method_handler(lambda _request, _context: json.dumps(12.5).encode())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("quotes.Quotes", {"GetPrice": get_price}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(None).wait(5)
