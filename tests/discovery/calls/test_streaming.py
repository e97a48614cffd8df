"""Calls whose responses are received while they are iterated, by both clients."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import requests

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient
from registry_admin.discovery.testing import fake_services
from registry_admin.errors import CallFailedError, DeadlineExceededError, InvalidValueError
from tests.parts import wait_until
from tests.parts.raw_service import OK, RawService, endless

LONG = OK + b"Content-Length: 1000000\r\n\r\n"


class Streaming:
    """A client of either kind, whose streams are iterated by blocking functions."""

    def __init__(self, kind: str, registry: ServiceRegistry, **options: Any) -> None:
        self.is_async = kind == "async"
        self._runner = asyncio.Runner()
        self.client: Any = (ServiceDiscoveryClient if self.is_async else SyncServiceDiscoveryClient)(
            registry, **options
        )

    def _run(self, result: Any) -> Any:
        return self._runner.run(result) if asyncio.iscoroutine(result) else result

    def stream(self, path: str = "/", **options: Any) -> requests.Response:
        return self._run(self.client.call_service("api", path, stream=True, **options))

    def iterate(self, iterator: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._run(self._next(iterator)) if self.is_async else next(iterator)
            except (StopIteration, StopAsyncIteration):
                return

    @staticmethod
    async def _next(iterator: AsyncIterator[Any]) -> Any:
        return await anext(iterator)

    def parts(self, response: Any, size: int | None = None) -> Iterator[bytes]:
        return self.iterate(response.aiter_content(size) if self.is_async else response.iter_content(size))

    def lines(self, response: Any, **options: Any) -> Iterator[Any]:
        return self.iterate(response.aiter_lines(**options) if self.is_async else response.iter_lines(**options))

    def read(self, response: Any) -> bytes:
        return self._run(response.aread()) if self.is_async else response.content

    def wait_until_ended(self, service: RawService, connections: int = 1) -> None:
        """Waits until the client has hung up, with its event loop going on."""

        def has_ended() -> bool:
            if self.is_async:
                self._run(asyncio.sleep(0))
            return service.ended == connections

        wait_until(has_ended, what="the client to hang up")

    def close(self) -> None:
        self._run(self.client.close())
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def make_streaming(request: pytest.FixtureRequest, registry: ServiceRegistry) -> Iterator[Callable[..., Streaming]]:
    made: list[Streaming] = []

    def make(**options: Any) -> Streaming:
        made.append(Streaming(request.param, registry, **options))
        return made[-1]

    yield make
    for streaming in made:
        streaming.close()


@pytest.fixture
def streaming(make_streaming: Callable[..., Streaming]) -> Streaming:
    return make_streaming()


def in_steps(*parts: bytes, then: Callable[[socket.socket], object] = lambda _: None) -> tuple[Any, threading.Event]:
    """Returns an answer that sends the second part and all later ones when the event is set."""
    proceed = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(parts[0])
        proceed.wait(20)
        for part in parts[1:]:
            connection.sendall(part)
        then(connection)

    return answer, proceed


def test_lines_are_handed_out_as_they_come(streaming, raw_instance):
    answer, proceed = in_steps(
        OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\none\ntwo\nt\r\n", b"5\r\nhree\n\r\n4\r\nlast\r\n0\r\n\r\n"
    )
    raw_instance(answer)
    lines = streaming.lines(streaming.stream())
    assert [next(lines), next(lines)] == [b"one", b"two"]
    proceed.set()
    assert list(lines) == [b"three", b"last"]


def test_connection_is_reused_after_a_stream_was_read_to_its_end(streaming, raw_instance):
    service = raw_instance(OK + b"Content-Length: 200000\r\n\r\n" + bytes(200_000), keep_open=True)
    for _ in range(3):
        assert sum(map(len, streaming.parts(streaming.stream()))) == 200_000
        assert len(streaming.read(streaming.stream())) == 200_000
    assert service.connections == 1


def test_connection_is_closed_with_a_stream_that_was_not_read_to_its_end(streaming, raw_instance):
    service = raw_instance(endless(LONG), keep_open=True)
    response = streaming.stream()
    assert next(streaming.parts(response))
    response.close()
    streaming.wait_until_ended(service)


def test_stream_that_nobody_holds_closes_its_connection(streaming, raw_instance):
    service = raw_instance(endless(LONG))
    response = streaming.stream()
    assert response.status_code == 200
    del response

    streaming.wait_until_ended(service)


def test_context_manager_closes_the_connection(streaming, raw_instance):
    service = raw_instance(endless(LONG))

    async def use_async() -> None:
        async with await streaming.client.get("api", stream=True) as response:
            assert response.status_code == 200

    if streaming.is_async:
        streaming._run(use_async())
    else:
        with streaming.client.get("api", stream=True) as response:
            assert response.status_code == 200
    streaming.wait_until_ended(service)


def test_stream_ends_at_the_deadline_of_the_call(streaming, raw_instance):
    answer, proceed = in_steps(LONG + b"begin")
    service = raw_instance(answer)
    response = streaming.stream(timeout=0.5)
    with pytest.raises(DeadlineExceededError, match=r"had not ended within 0\.5 s"):
        list(streaming.parts(response))
    proceed.set()
    streaming.wait_until_ended(service)


def test_stream_that_never_pauses_ends_at_the_deadline(streaming, raw_instance):
    raw_instance(endless(OK + b"\r\n"))
    with pytest.raises(DeadlineExceededError):
        for _part in streaming.parts(streaming.stream(timeout=0.5)):
            pass


def test_stream_that_breaks_off_fails_and_counts_against_the_instance(streaming, raw_instance):
    for _ in range(2):
        raw_instance(LONG + b"begin")
    for _ in range(10):
        parts: list[bytes] = []
        with pytest.raises(CallFailedError, match="broke off in the middle of its reply"):
            parts.extend(streaming.parts(streaming.stream()))
    assert sorted(instance.state == "called" for instance in streaming.client.explain("api").instances) == [False, True]


def test_stream_is_received_no_faster_than_it_is_read(streaming, raw_instance):
    sent = 0

    def answer(connection: socket.socket) -> None:
        nonlocal sent
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        connection.sendall(OK + b"Content-Length: 50000000\r\n\r\n")
        for _ in range(50_000_000 // 50_000):
            connection.sendall(bytes(50_000))
            sent += 50_000

    raw_instance(answer)
    response = streaming.stream()
    parts = streaming.parts(response)
    size = len(next(parts))
    assert sent < 25_000_000  # what both kernels hold, and 128 KiB here
    assert size + sum(map(len, parts)) == 50_000_000


def test_stream_goes_to_another_instance_while_it_has_no_head(streaming, raw_instance):
    away = raw_instance(OK.replace(b"200 OK", b"503 Away") + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))
    fine = raw_instance(OK + b"Content-Length: 4\r\n\r\nfine")
    for _ in range(8):
        assert streaming.read(streaming.stream()) == b"fine"
    assert (away.requests > 0, fine.requests) == (True, 8)
    streaming.wait_until_ended(away, away.connections)


def test_whole_body_is_read_as_that_of_other_responses(streaming, add, http_service):
    add(http_service(body=b'{"a": 1}', headers={"Content-Type": "application/json"}))
    response = streaming.stream()
    assert (streaming.read(response), response.text, response.json()) == (b'{"a": 1}', '{"a": 1}', {"a": 1})
    iterated = streaming.stream()
    list(streaming.parts(iterated))
    with pytest.raises(requests.exceptions.StreamConsumedError):
        streaming.read(iterated)


def test_body_and_line_above_the_limit_are_refused(make_streaming, raw_instance):
    streaming = make_streaming(body_limit=100_000)
    raw_instance(LONG + b"x" * 1_000_000)
    with pytest.raises(CallFailedError, match="larger than 100000 bytes"):
        streaming.read(streaming.stream())
    with pytest.raises(CallFailedError, match="longer than 100000 bytes"):
        list(streaming.lines(streaming.stream()))
    assert sum(map(len, streaming.parts(streaming.stream()))) == 1_000_000


def test_compressed_stream_is_decoded(streaming, add, http_service):
    text = b"a line of text\n" * 5_000
    add(http_service(body=gzip.compress(text), headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"}))
    assert list(streaming.lines(streaming.stream(), decode_unicode=True)) == ["a line of text"] * 5_000


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_response_without_a_body_is_an_empty_stream(streaming, raw_instance, method):
    service = raw_instance(OK.replace(b"200", b"204") + b"\r\n", keep_open=True)
    for _ in range(2):
        assert list(streaming.parts(streaming.stream(method=method))) == []
    assert service.connections == 1


def test_stream_of_a_fake_is_iterated_as_a_real_one(streaming):
    with fake_services({"api": lambda request: "one\ntwo\n"}):
        assert list(streaming.lines(streaming.stream())) == [b"one", b"two"]
        assert streaming.read(streaming.stream()) == b"one\ntwo\n"


def test_stream_option_that_is_no_boolean_is_refused(streaming):
    with pytest.raises(InvalidValueError, match=r"^stream"):
        streaming._run(streaming.client.get("api", stream="yes"))


def test_raw_of_a_synchronous_stream_is_a_file(registry, add, http_service):
    add(http_service(body=bytes(300_000)))
    with SyncServiceDiscoveryClient(registry) as client, client.get("api", stream=True) as response:
        assert len(response.raw.read(1000)) == 1000
        assert len(response.raw.read()) == 299_000


def test_body_of_an_asynchronous_stream_is_not_read_by_itself(registry, add, http_service):
    add(http_service(body=b"text"))

    async def call() -> None:
        async with ServiceDiscoveryClient(registry) as client, await client.get("api", stream=True) as response:
            with pytest.raises(RuntimeError, match="aread"):
                _ = response.text
            await response.aread()
            assert response.text == "text"

    asyncio.run(call())


def test_stream_of_an_instance_that_was_not_meant_is_closed(streaming, raw_instance):
    misdirected = raw_instance(
        OK.replace(b"200 OK", b"421 Misdirected")
        + b"X-Service-Instance: other\r\nContent-Length: 100000\r\n\r\n"
        + bytes(100_000)
    )
    raw_instance(OK + b"Content-Length: 4\r\n\r\nfine")
    for _ in range(8):
        assert streaming.read(streaming.stream()) == b"fine"
    streaming.wait_until_ended(misdirected, misdirected.connections)
    assert misdirected.requests


def test_stream_method_streams(streaming, add, http_service):
    add(http_service(body=b"one\ntwo\n"))
    assert list(streaming.lines(streaming._run(streaming.client.stream("api", "/")))) == [b"one", b"two"]
