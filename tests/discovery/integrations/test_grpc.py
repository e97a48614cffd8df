"""Channels of gRPC to picked instances, with real servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient
from registry_admin.errors import NoSuchServiceError
from tests.parts import refusing_port, wait_until

grpc = pytest.importorskip("grpc")
integration = pytest.importorskip("registry_admin.discovery.integrations.grpc")
FIND = "/search.Search/Find"


class Server:
    """A server of one method that answers with its port, or refuses with `code`."""

    host = "127.0.0.1"

    def __init__(self, *, code: Any = None) -> None:
        self._server = grpc.server(ThreadPoolExecutor(2))
        self.port = self._server.add_insecure_port("127.0.0.1:0")

        def find(request: bytes, context: Any) -> bytes:
            if code is not None:
                context.abort(code, "refused")
            return f"{request.decode()} {self.port}".encode()

        handler = grpc.method_handlers_generic_handler(
            "search.Search", {"Find": grpc.unary_unary_rpc_method_handler(find)}
        )
        self._server.add_generic_rpc_handlers((handler,))
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait(10)


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Server:
            started = Server(**options)
            stack.callback(started.stop)
            return started

        yield start


class AnyChannels:
    """Channels of either kind."""

    def __init__(self, kind: str, registry: ServiceRegistry) -> None:
        self.is_async = kind == "async"
        self._runner = asyncio.Runner()
        client = (ServiceDiscoveryClient if self.is_async else SyncServiceDiscoveryClient)(registry)
        self.client = client
        make = self._make_async if self.is_async else grpc.insecure_channel
        self.channels = integration.ServiceChannels("api", client, make_channel=make)

    @staticmethod
    def _make_async(address: str) -> Any:
        return grpc.aio.insecure_channel(address)

    def find(self, text: str = "x") -> str:
        if self.is_async:
            return self._runner.run(self._find_async(text))
        with self.channels.pick() as channel:
            return channel.unary_unary(FIND)(text.encode(), timeout=5).decode()

    async def _find_async(self, text: str) -> str:
        async with self.channels.apick() as channel:
            return (await channel.unary_unary(FIND)(text.encode(), timeout=5)).decode()

    def close(self) -> None:
        if self.is_async:
            self._runner.run(self._close_async())
        else:
            for channel in self.channels._channels.values():
                channel.close()
        self._runner.close()

    async def _close_async(self) -> None:
        for channel in self.channels._channels.values():
            await channel.close()


@pytest.fixture(params=["sync", "async"])
def channels(request: pytest.FixtureRequest, registry: ServiceRegistry) -> Iterator[AnyChannels]:
    either = AnyChannels(request.param, registry)
    yield either
    either.close()


def states(channels: AnyChannels) -> list[bool]:
    return sorted(instance.state == "called" for instance in channels.client.explain("api").instances)


def test_each_use_picks_a_channel_and_channels_are_reused(channels, add, server):
    servers = [server(), server()]
    for started in servers:
        add(started)
    replies = {channels.find() for _ in range(40)}
    assert replies == {f"x {started.port}" for started in servers}
    assert len(channels.channels._channels) == 2


def test_unavailable_instance_is_ejected(channels, add, server):
    class Dead:
        host, port = "127.0.0.1", refusing_port()

    add(Dead)
    add(server())

    def is_ejected() -> bool:
        with contextlib.suppress(grpc.RpcError):
            channels.find()
        return states(channels) == [False, True]

    wait_until(is_ejected)
    assert all(channels.find().startswith("x ") for _ in range(10))


def test_other_code_is_an_answer(channels, add, server):
    for _ in range(2):
        add(server(code=grpc.StatusCode.NOT_FOUND))
    for _ in range(20):
        with pytest.raises(grpc.RpcError):
            channels.find()
    assert states(channels) == [True, True]


def test_channel_of_an_instance_that_left_is_let_go(channels, add, server, registry):
    first, second = server(), server()
    first_id = add(first)
    channels.find()
    add(second)
    registry.deregister_service(first_id)
    wait_until(lambda: channels.find() == f"x {second.port}")
    addresses = [f"127.0.0.1:{second.port}"]
    wait_until(lambda: channels.find() and list(channels.channels._channels) == addresses)


def test_unknown_service_raises_the_error_of_a_call(channels):
    with pytest.raises(NoSuchServiceError):
        channels.find()
