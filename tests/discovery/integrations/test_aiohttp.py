"""aiohttp code whose requests go to picked instances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery import ServiceDiscoveryClient
from registry_admin.errors import NoSuchServiceError
from tests.parts import refusing_port

aiohttp = pytest.importorskip("aiohttp")
integration = pytest.importorskip("registry_admin.discovery.integrations.aiohttp")


class Dead:
    host = "127.0.0.1"

    def __init__(self) -> None:
        self.port = refusing_port()


@pytest.fixture
async def client(registry: ServiceRegistry) -> AsyncIterator[ServiceDiscoveryClient]:
    async with ServiceDiscoveryClient(registry) as client:
        yield client


@pytest.fixture
async def session(client: ServiceDiscoveryClient) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession(middlewares=[integration.ServiceMiddleware(client)]) as session:
        yield session


async def test_request_reaches_a_healthy_instance_with_its_arguments(session, add, http_service):
    service = http_service(body=b"fine")
    add(service, meta={"base_path": "/shop"})
    async with session.post("http://api.service/publish?a=b%20c", json={"t": 1}) as response:
        assert (response.status, await response.text()) == (200, "fine")
    sent = service.requests[0]
    assert (sent.path, sent.body) == ("/shop/publish?a=b%20c", b'{"t": 1}')
    assert sent.headers["Host"] == f"127.0.0.1:{service.port}"
    assert sent.headers["X-Service-Instance"] == f"api-127.0.0.1-{service.port}@localhost:{service.port}"


async def test_host_header_of_the_caller_is_kept(session, add, http_service):
    service = http_service()
    add(service)
    async with session.get("http://api.service/", headers={"Host": "shop.example.com"}):
        pass
    assert service.requests[0].headers["Host"] == "shop.example.com"


async def test_dead_instance_costs_no_request_and_is_ejected(session, client, add, http_service):
    add(Dead())
    service = http_service(body=b"fine")
    add(service)
    for _ in range(20):
        async with session.post("http://api.service/", data=b"body") as response:
            assert await response.text() == "fine"
    assert {request.body for request in service.requests} == {b"body"}
    states = sorted(instance.state == "called" for instance in client.explain("api").instances)
    assert states == [False, True]


async def test_instance_that_answers_500_is_ejected(session, client, add, http_service):
    failing, service = http_service(status=500), http_service()
    add(failing)
    add(service)
    for _ in range(40):
        async with session.get("http://api.service/"):
            pass
    states = sorted(instance.state == "called" for instance in client.explain("api").instances)
    assert states == [False, True]
    assert len(failing.requests) < 15 < len(service.requests)


async def test_request_without_an_instance_that_answers_fails_as_in_aiohttp(session, add):
    for _ in range(2):
        add(Dead())
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get("http://api.service/")
    with pytest.raises(NoSuchServiceError):
        await session.get("http://unknown.service/")


async def test_other_host_is_asked_as_usual(session, http_service):
    async with session.get(http_service(body=b"plain").url) as response:
        assert await response.text() == "plain"


async def test_web_socket_is_opened_to_an_instance(session, add):
    from aiohttp import web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    app = web.Application()
    app.router.add_get("/feed", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    service = type("Service", (), {"host": "127.0.0.1", "port": runner.addresses[0][1]})
    await asyncio.to_thread(add, service)
    async with session.ws_connect("ws://api.service/feed") as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "HELLO"
    await runner.cleanup()
