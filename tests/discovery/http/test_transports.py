"""Exchanges of both transports over real sockets: the same replies, reuse, uploads and time limits."""

from __future__ import annotations

import hashlib
import io
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from registry_admin.discovery.http import async_connection, connection, resolver
from registry_admin.errors import AttemptError, Outcome
from tests.discovery.http.replies import READ, REFUSED, Reply
from tests.parts import refusing_port, wait_until
from tests.parts.raw_service import OK

pytestmark = pytest.mark.network
OPEN = OK + b"Content-Length: 4\r\n\r\nfine"


def in_single_bytes(sent: bytes) -> Callable[[socket.socket], None]:
    """Returns an answer that sends each byte by itself; long ones in parts, to end in time."""

    def answer(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = 1 + len(sent) // 1000
        for position in range(0, len(sent), step):
            connection.sendall(sent[position : position + step])

    return answer


# -- replies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("reply", READ.values(), ids=READ)
def test_unambiguous_response_is_returned(transport, raw_service, reply: Reply, split):
    service = raw_service(in_single_bytes(reply.sent) if split else reply.sent)
    assert transport.exchange(service, method=reply.method).content == reply.body


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("reply", REFUSED.values(), ids=REFUSED)
def test_ambiguous_or_broken_response_is_refused(transport, raw_service, reply: Reply, split):
    service = raw_service(in_single_bytes(reply.sent) if split else reply.sent)
    with pytest.raises(AttemptError) as caught:
        transport.exchange(service, method=reply.method)
    assert caught.value.outcome is Outcome.MAYBE_RECEIVED
    assert type(caught.value.__cause__) in {reply.error, ConnectionResetError}  # reset: it left unread bytes behind


def test_headers_and_reason_are_latin_1(transport, raw_service):
    response = transport.exchange(raw_service(b"HTTP/1.1 200 D\xe9j\xe0\r\nX: \xe4\r\nContent-Length: 0\r\n\r\n"))
    assert (response.reason, response.headers["X"]) == ("D\xe9j\xe0", "\xe4")


# -- reuse ----------------------------------------------------------------------------------------------------------


def test_connection_is_reused(transport, raw_service):
    service = raw_service(OPEN, keep_open=True)
    assert [transport.exchange(service).text for _ in range(5)] == ["fine"] * 5
    assert (service.requests, service.connections) == (5, 1)


@pytest.mark.parametrize("reply", READ.values(), ids=READ)
def test_connection_is_reused_only_after_a_reply_with_a_clear_end(transport, raw_service, reply: Reply):
    service = raw_service(reply.sent, keep_open=reply.reusable)
    for _ in range(2):
        assert transport.exchange(service, method=reply.method).content == reply.body
    assert service.connections == (1 if reply.reusable else 2)


@pytest.mark.parametrize(("hint", "connections"), [(b"timeout=1", 2), (b"timeout=100", 1), (b"max=5", 1)])
def test_connection_is_reused_as_long_as_its_server_says(transport, raw_service, hint, connections):
    service = raw_service(OK + b"Keep-Alive: " + hint + b"\r\nContent-Length: 4\r\n\r\nfine", keep_open=True)
    for _ in range(2):
        transport.exchange(service)
    assert service.connections == connections


def test_connection_that_was_idle_for_too_long_is_not_reused(transport, raw_service, monkeypatch):
    for module in (connection, async_connection):
        monkeypatch.setattr(module, "IDLE_TIMEOUT_S", 0.05)
    service = raw_service(OPEN, keep_open=True)
    transport.exchange(service)
    time.sleep(0.06)  # the time to be measured
    transport.exchange(service)
    assert service.connections == 2


@pytest.fixture
def hanging_up(raw_service) -> Any:
    """A service that hangs up instead of giving each connection's second reply."""
    answered: set[int] = set()

    def answer(connection: socket.socket) -> None:
        if connection.fileno() in answered:
            answered.remove(connection.fileno())
            connection.shutdown(socket.SHUT_RDWR)
        else:
            answered.add(connection.fileno())
            connection.sendall(OPEN)

    return raw_service(answer, keep_open=True)


@pytest.mark.parametrize("options", [{"method": "PUT"}, {"method": "POST", "headers": {"Idempotency-Key": "1"}}])
def test_repeatable_request_is_sent_again_after_its_reused_connection_ended(transport, hanging_up, options):
    transport.exchange(hanging_up)
    assert transport.exchange(hanging_up, data=io.BytesIO(b"body"), **options).text == "fine"
    assert (hanging_up.requests, hanging_up.connections) == (3, 2)


def test_other_request_is_not_sent_again_after_its_reused_connection_ended(transport, hanging_up):
    transport.exchange(hanging_up)
    with pytest.raises(AttemptError, match="without a reply") as caught:
        transport.exchange(hanging_up, method="POST")
    assert caught.value.outcome is Outcome.MAYBE_RECEIVED
    assert hanging_up.requests == 2


def test_request_on_a_new_connection_is_sent_once(transport, raw_service):
    service = raw_service(b"")
    with pytest.raises(AttemptError, match="without a reply"):
        transport.exchange(service)
    assert service.requests == 1


# -- connecting -----------------------------------------------------------------------------------------------------


class Address:
    """Host and port of an instance."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port


def test_refused_connection_means_not_sent(transport):
    with pytest.raises(AttemptError, match="connection refused") as caught:
        transport.exchange(Address("127.0.0.1", refusing_port()))
    assert caught.value.outcome is Outcome.NOT_SENT


def test_name_is_looked_up_and_its_addresses_are_tried_in_turn(transport, raw_service, monkeypatch):
    service = raw_service(OPEN)
    found = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port)) for port in (refusing_port(), service.port)]
    monkeypatch.setattr(resolver.socket, "getaddrinfo", lambda *_args, **_options: found)
    assert transport.exchange(Address("api.test", service.port)).text == "fine"


def test_unknown_name_means_not_sent(transport, monkeypatch):
    def fail(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(resolver.socket, "getaddrinfo", fail)
    with pytest.raises(AttemptError, match="host name can't be resolved") as caught:
        transport.exchange(Address("api.test", 80))
    assert caught.value.outcome is Outcome.NOT_SENT


def test_slow_name_server_meets_the_deadline_and_is_asked_once_at_a_time(transport, monkeypatch):
    asked, released = [], threading.Event()

    def look_up(*args: object, **_options: object) -> list[Any]:
        asked.append(args)
        released.wait(10)
        return []

    monkeypatch.setattr(resolver.socket, "getaddrinfo", look_up)
    for _ in range(3):
        with pytest.raises(AttemptError, match="no answer in time") as caught:
            transport.exchange(Address("slow.test", 80), timeout_s=0.1)
        assert caught.value.outcome is Outcome.NOT_SENT
    assert asked == [("slow.test", 80)]
    released.set()
    wait_until(lambda: not resolver._under_way)


# -- uploads --------------------------------------------------------------------------------------------------------

LARGE = b"0123456789abcdef" * 1_000_000  # 16 MB: more than the sockets' buffers take


@pytest.fixture
def receiving(raw_service) -> Any:
    """A service that reads a body as large as LARGE and notes its digest in `digests`."""

    def answer(connection: socket.socket) -> None:
        digest, rest = hashlib.sha256(service.received_body), len(LARGE) - len(service.received_body)
        while rest and (part := connection.recv(min(rest, 65536))):
            digest.update(part)
            rest -= len(part)
        service.digests.append(digest.hexdigest())
        connection.sendall(OPEN)

    service = raw_service(answer, keep_open=True)
    service.digests = []
    return service


@pytest.mark.parametrize("as_file", [False, True])
def test_large_body_arrives_whole_and_its_connection_is_reused(transport, receiving, as_file):
    for _ in range(2):
        data = io.BytesIO(LARGE) if as_file else LARGE
        assert transport.exchange(receiving, method="PUT", data=data).text == "fine"
    assert receiving.digests == [hashlib.sha256(LARGE).hexdigest()] * 2
    assert receiving.connections == 1


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("resets", [False, True])
def test_refusal_in_the_middle_of_an_upload_is_returned(transport, raw_service, as_file, resets):
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge")
        if resets:
            time.sleep(0.01)  # so that the reply leaves before the reset, which would drop it here
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    service = raw_service(answer)
    for _ in range(5):
        data = io.BytesIO(LARGE) if as_file else LARGE
        response = transport.exchange(service, method="POST", data=data)
        assert (response.status_code, response.text) == (413, "large")
    assert service.connections == 5


def test_connection_is_not_reused_in_the_middle_of_a_body(transport, raw_service):
    released, numbers = threading.Event(), itertools.count()

    def answer(connection: socket.socket) -> None:
        connection.sendall(OPEN)
        if next(numbers) == 0:
            released.wait(10)

    service = raw_service(answer, keep_open=True)
    assert transport.exchange(service, method="POST", data=LARGE).text == "fine"
    assert transport.exchange(service).text == "fine"
    released.set()
    assert service.connections == 2


def test_file_that_changes_meanwhile_ends_the_attempt(transport, receiving, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    with path.open("rb") as file:

        class Shrinking(io.BufferedIOBase):
            def tell(self) -> int:
                return file.tell()

            def seek(self, *args: int) -> int:
                return file.seek(*args)

            def read(self, size: int | None = -1) -> bytes:
                part = file.read(size)
                if part:
                    path.write_bytes(b"short")
                return part

        with pytest.raises(AttemptError, match="changed its size") as caught:
            transport.exchange(receiving, method="PUT", data=Shrinking())
    assert caught.value.outcome is Outcome.UNUSABLE
    wait_until(lambda: receiving.ended == receiving.connections, what="the client to hang up")


# -- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", READ.values(), ids=READ)
def test_unambiguous_streamed_response_is_received_and_its_connection_reused(transport, raw_service, reply: Reply):
    service = raw_service(reply.sent, keep_open=reply.reusable)
    for _ in range(2):
        assert transport.read(transport.exchange(service, method=reply.method, stream=True)) == reply.body
    assert service.connections == (1 if reply.reusable else 2)


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("reply", REFUSED.values(), ids=REFUSED)
def test_ambiguous_or_broken_streamed_response_is_refused(transport, raw_service, reply: Reply, split):
    service = raw_service(in_single_bytes(reply.sent) if split else reply.sent)
    with pytest.raises(AttemptError) as caught:
        transport.read(transport.exchange(service, method=reply.method, stream=True))
    assert caught.value.outcome is Outcome.MAYBE_RECEIVED


def test_streamed_request_is_sent_again_after_its_reused_connection_ended(transport, hanging_up):
    for _ in range(4):
        assert transport.read(transport.exchange(hanging_up, stream=True)) == b"fine"
