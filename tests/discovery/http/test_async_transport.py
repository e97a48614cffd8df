"""The pool of an event loop: places, cancellation, loops and processes."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_admin.discovery.http import async_pool
from registry_admin.discovery.http.async_transport import AsyncTransport
from registry_admin.errors import AttemptError, Outcome
from tests.fixtures.transports import AUTHORITY
from tests.parts import wait_until
from tests.parts.any_transport import LOOPS, send_async
from tests.parts.raw_service import OK

pytestmark = pytest.mark.network
OPEN = OK + b"Content-Length: 4\r\n\r\nfine"
on_every_loop = pytest.mark.parametrize("make_loop", LOOPS.values(), ids=LOOPS)


def url(service: Any, scheme: str = "http") -> str:
    return f"{scheme}://{service.host}:{service.port}"


def in_use(transport: AsyncTransport) -> int:
    return sum(pool.in_use for pool in transport._pools.values())


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds, without holding up the loop."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


class Echo(asyncio.Protocol):
    """A quick service on the test's own loop: answers in parts, so that a cancellation can hit any moment."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.transport.write(OK + b"Content-Length: 4\r\n")
        loop.call_later(random.random() / 500, self._end)

    def _end(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"\r\nfine")


@on_every_loop
def test_cancelled_calls_leave_nothing_busy(make_loop, monkeypatch):
    monkeypatch.setattr(async_pool, "CONNECTIONS_PER_INSTANCE", 5)  # so that most of them wait for a place

    async def call(transport: AsyncTransport, base_url: str) -> str:
        return (await send_async(transport, base_url)).text

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport, cancelled = AsyncTransport(), 0
        for _ in range(200):
            tasks = [asyncio.create_task(call(transport, base_url)) for _ in range(50)]
            for task in tasks:
                asyncio.get_running_loop().call_later(random.random() / 100, task.cancel)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(isinstance(result, asyncio.CancelledError) for result in results)
            assert {result for result in results if not isinstance(result, asyncio.CancelledError)} <= {"fine"}
        assert cancelled > 1000
        assert in_use(transport) == 0
        assert await asyncio.gather(*(call(transport, base_url) for _ in range(50))) == ["fine"] * 50
        await transport.close()
        server.close()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())


@on_every_loop
def test_places_are_given_in_turn_and_waiting_in_vain_is_no_fault_of_the_instance(make_loop, raw_service, monkeypatch):
    monkeypatch.setattr(async_pool, "CONNECTIONS_PER_INSTANCE", 1)
    released = threading.Event()

    def answer(connection: socket.socket) -> None:
        released.wait(10)
        connection.sendall(OPEN)

    service, order = raw_service(answer, keep_open=True), []

    async def call(transport: AsyncTransport, number: int, **options: Any) -> None:
        await send_async(transport, url(service), **options)
        order.append(number)

    async def run() -> None:
        transport = AsyncTransport()
        tasks = [asyncio.create_task(call(transport, number)) for number in range(4)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()  # whoever waits behind it moves up
        with pytest.raises(AttemptError, match="all 1 connections to it were in use") as caught:
            await call(transport, 9, timeout_s=0.1)
        assert (caught.value.outcome, caught.value.is_local) == (Outcome.NOT_SENT, True)
        released.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (order, in_use(transport), service.connections) == ([0, 2, 3], 0, 1)
        await transport.close()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())


@on_every_loop
def test_loops_have_pools_of_their_own_and_closed_ones_are_forgotten(make_loop, raw_service):
    service, transport = raw_service(OPEN, keep_open=True), AsyncTransport()

    async def run() -> str:
        return (await send_async(transport, url(service))).text

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            with asyncio.Runner(loop_factory=make_loop) as runner:
                assert [runner.run(run()) for _ in range(2)] == ["fine"] * 2
        gc.collect()
    assert not caught
    assert (len(transport._pools), service.connections) == (1, 5)
    wait_until(lambda: service.ended == 5, what="each loop to close its connection")


@on_every_loop
def test_loops_of_several_threads_share_a_transport(make_loop, raw_service):
    service, transport, texts = raw_service(OPEN, keep_open=True), AsyncTransport(), []

    async def run() -> None:
        texts.extend([(await send_async(transport, url(service))).text for _ in range(20)])

    def run_loop() -> None:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(run())

    threads = [threading.Thread(target=run_loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["fine"] * 80
    assert service.connections == 4


def test_loop_that_was_closed_without_an_end_is_forgotten(raw_service):
    service, transport = raw_service(OPEN, keep_open=True), AsyncTransport()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(send_async(transport, url(service)))
    loop.close()

    def call_on_another_loop() -> str:
        text = asyncio.run(send_async(transport, url(service))).text
        gc.collect()
        return text

    with pytest.warns(ResourceWarning, match="unclosed transport"):  # as for everything that such a loop has open
        assert call_on_another_loop() == "fine"
    wait_until(lambda: service.ended == 2)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_opens_its_own_connections(raw_service):
    service, transport = raw_service(OPEN, keep_open=True), AsyncTransport()

    async def run() -> str:
        return (await send_async(transport, url(service))).text

    with asyncio.Runner() as runner:
        assert runner.run(run()) == "fine"
        pid = os.fork()
        if not pid:
            status = 1
            try:
                status = 0 if asyncio.run(run()) == "fine" and len(transport._pools) == 1 else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert runner.run(run()) == "fine"
    assert (service.requests, service.connections) == (3, 2)


@on_every_loop
def test_connections_that_are_idle_for_too_long_are_closed(make_loop, raw_service, monkeypatch):
    monkeypatch.setattr(async_pool, "IDLE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("registry_admin.discovery.http.async_connection.IDLE_TIMEOUT_S", 0.05)
    service = raw_service(OPEN, keep_open=True)

    async def run() -> None:
        transport = AsyncTransport()
        await send_async(transport, url(service))
        (pool,) = transport._pools.values()
        await eventually(lambda: not pool._instances)
        assert pool._sweeper is None

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())
    wait_until(lambda: service.ended == 1)


@on_every_loop
def test_idle_connection_that_its_server_closes_leaves_the_pool(make_loop, raw_service):
    service = raw_service(OPEN)

    async def run() -> None:
        transport = AsyncTransport()
        await send_async(transport, url(service))
        (pool,) = transport._pools.values()
        await eventually(lambda: not pool.instance(url(service)).idle)
        await transport.close()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())


@on_every_loop
def test_connection_that_was_used_last_is_used_first(make_loop, raw_service):
    service = raw_service(OPEN, keep_open=True)

    async def run() -> None:
        transport = AsyncTransport()
        await asyncio.gather(*(send_async(transport, url(service)) for _ in range(3)))
        (pool,) = transport._pools.values()
        idle = list(pool.instance(url(service)).idle)
        assert len(idle) == 3
        for _ in range(3):
            await send_async(transport, url(service))
        assert pool.instance(url(service)).idle == idle
        assert idle[-1].sent_at > max(idle[0].sent_at, idle[1].sent_at)
        await transport.close()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())


@on_every_loop
def test_cancelled_handshakes_leave_no_socket_open(make_loop, raw_service):
    service = raw_service(lambda connection: connection.recv(1))

    async def run() -> None:
        transport = AsyncTransport(verify=AUTHORITY)
        tasks = [asyncio.create_task(send_async(transport, url(service, "https"))) for _ in range(20)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert in_use(transport) == 0
        await asyncio.sleep(0.05)
        await transport.close()

    before = open_files()
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())
    gc.collect()
    wait_until(lambda: service.ended == service.connections > 0, what="the client to hang up")
    assert open_files() < before + 10  # a loop's own may come and go


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@on_every_loop
def test_deadline_fails_the_call_without_cancelling_its_task(make_loop, raw_service):
    service = raw_service(lambda connection: connection.recv(1))

    async def run() -> None:
        transport = AsyncTransport()
        with pytest.raises(AttemptError, match="no answer in time"):
            await send_async(transport, url(service), timeout_s=0.1)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert in_use(transport) == 0

    started_at = time.monotonic()
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())
    assert time.monotonic() - started_at >= 0.1
    wait_until(lambda: service.ended == 1, what="the client to hang up")


@on_every_loop
def test_slow_name_server_holds_up_no_other_task(make_loop, monkeypatch):
    released = threading.Event()

    def look_up(*_args: object, **_options: object) -> list[Any]:
        released.wait(10)
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 9))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def run() -> None:
        task = asyncio.create_task(send_async(AsyncTransport(), "http://slow.test:9"))
        await asyncio.sleep(0.01)
        assert await asyncio.to_thread(lambda: "the executor is free") == "the executor is free"
        assert not task.done()
        released.set()
        with pytest.raises(AttemptError):
            await task

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())
