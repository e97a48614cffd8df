"""The header that names the called instance, and which calls are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.autoregister.middleware import propagate_context
from registry_admin.discovery import asgi, own_instances, wsgi
from registry_admin.discovery.own_instances import HEADER, instance_headers, refusing_instance, serve_as


@pytest.fixture(autouse=True)
def _serves_as_orders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(own_instances, "_ids_by_place", {})
    serve_as("orders 1", "10.0.0.5", 8000)


def header(instance_id: str, address: str, port: int) -> str:
    return instance_headers(instance_id, address, port)[HEADER]


@pytest.mark.parametrize(
    ("instance_id", "address", "port", "refusing"),
    [
        ("orders 1", "10.0.0.5", 8000, None),
        ("prices", "10.0.0.5", 8000, "orders%201"),
        ("prices", "10.0.0.5", 8001, None),  # a proxy in front is the one that is called
        ("prices", "10.0.0.6", 8000, None),
    ],
)
def test_refusing_instance_refuses_other_ids_at_its_own_address(instance_id, address, port, refusing):
    assert refusing_instance(header(instance_id, address, port)) == refusing


def test_refusing_instance_takes_each_spelling_of_an_address_for_the_same():
    serve_as("orders", "127.0.0.1", 8000)
    serve_as("orders", "FD00::5", 8000)
    serve_as("orders", "Host.example.", 8000)
    for address in ("localhost", "127.0.0.2", "::1", "fd00:0:0:0:0:0:0:5", "host.example"):
        assert refusing_instance(header("prices", address, 8000)) == "orders"


@pytest.mark.parametrize("value", [None, "", "orders", "@", "@10.0.0.5:8000x", "a@b@c", "\xff"])
def test_refusing_instance_ignores_what_is_no_header_of_a_call(value):
    assert refusing_instance(value) is None
    assert refusing_instance(header("prices", "10.0.0.5", 8000)) == "orders%201"


def test_refusing_instance_of_a_process_that_serves_as_nothing_is_none(monkeypatch):
    monkeypatch.setattr(own_instances, "_ids_by_place", {})
    assert refusing_instance(header("prices", "10.0.0.5", 8000)) is None


@given(instance_id=st.text() | st.text(min_size=400), address=st.text())
def test_instance_headers_of_any_text_fit_into_a_header(instance_id, address):
    for value in instance_headers(instance_id, address, 8000).values():
        assert value.isascii()
        assert value.isprintable()
        assert len(value) <= 512


# -- middleware -------------------------------------------------------------------------------------------------------

Reply = tuple[int, str | None, bytes]


def ask_django(value: str) -> Reply:
    response = propagate_context(lambda _request: HttpResponse(b"served"))(
        RequestFactory().get("/", headers={HEADER: value})
    )
    return response.status_code, response.headers.get(HEADER), response.content


def ask_async_django(value: str) -> Reply:
    async def view(_request: Any) -> HttpResponse:
        return HttpResponse(b"served")

    response = asyncio.run(propagate_context(view)(RequestFactory().get("/", headers={HEADER: value})))
    return response.status_code, response.headers.get(HEADER), response.content


def ask_wsgi(value: str) -> Reply:
    started: list[Any] = []

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"served"]

    body = wsgi.WSGIPropagateContext(app)({"HTTP_X_SERVICE_INSTANCE": value}, lambda *given: started.extend(given))
    status, headers = started
    return int(status[:3]), dict(headers).get(HEADER), b"".join(body)


def ask_asgi(value: str) -> Reply:
    messages: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {"type": "http", "headers": [(HEADER.lower().encode(), value.encode())]}
    asyncio.run(asgi.PropagateContext(app)(scope, None, send))
    start, body = messages
    own = dict(start["headers"]).get(HEADER.lower().encode())
    return start["status"], own.decode() if own else None, body["body"]


@pytest.mark.parametrize("ask", [ask_django, ask_async_django, ask_wsgi, ask_asgi])
def test_middleware_refuses_a_call_to_another_instance_and_names_its_own(ask):
    status, own, body = ask(header("prices", "10.0.0.5", 8000))
    assert (status, own) == (421, "orders%201")
    assert b"This is orders%201, not the instance that the call is meant for." in body
    assert ask(header("orders 1", "10.0.0.5", 8000)) == (200, None, b"served")
    assert ask("") == (200, None, b"served")
