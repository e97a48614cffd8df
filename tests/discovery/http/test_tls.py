"""HTTPS of both transports."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest

from registry_admin.discovery.http import async_pool, connection
from registry_admin.errors import AttemptError, Outcome
from tests.fixtures.transports import AUTHORITY
from tests.parts import wait_until
from tests.parts.raw_service import OK

pytestmark = pytest.mark.network
OPEN = OK + b"Content-Length: 4\r\n\r\nfine"
UNTIL_CLOSE = OK + b"\r\nfine"
STREAM = OK + b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000)


class Named:
    """A service under the name that its certificate is good for, or another."""

    def __init__(self, service: Any, host: str) -> None:
        self.host, self.port = host, service.port


def test_exchange_is_made_over_tls_and_its_connection_reused(make_transport, tls_service):
    transport, service = make_transport(verify=AUTHORITY), tls_service(OPEN, keep_open=True)
    for host in ("127.0.0.1", "localhost"):
        assert [transport.exchange(Named(service, host), scheme="https").text for _ in range(3)] == ["fine"] * 3
    assert (service.requests, service.connections) == (6, 2)


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_body_is_sent_and_received_over_tls(make_transport, tls_service, size):
    def answer(connection: socket.socket) -> None:
        rest = size - len(service.received_body)
        while rest:
            rest -= len(connection.recv(min(rest, 65536)))
        connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % size + bytes(size))

    transport, service = make_transport(verify=AUTHORITY), tls_service(answer, keep_open=True)
    for _ in range(2):
        assert transport.exchange(service, scheme="https", method="PUT", data=bytes(size)).content == bytes(size)
    assert service.connections == 1


def test_unknown_authority_is_refused(transport, tls_service):
    with pytest.raises(AttemptError, match="certificate was refused") as caught:
        transport.exchange(tls_service(OPEN), scheme="https")
    assert caught.value.outcome is Outcome.NOT_SENT


def test_certificate_of_another_name_is_refused_though_its_address_is_dialled(make_transport, tls_service, monkeypatch):
    service = tls_service(OPEN)
    found = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", service.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
    with pytest.raises(AttemptError, match="certificate was refused"):
        make_transport(verify=AUTHORITY).exchange(Named(service, "other.test"), scheme="https")
    assert make_transport(verify=False).exchange(Named(service, "other.test"), scheme="https").text == "fine"


def test_refused_client_certificate_is_no_fault_of_the_instance(make_transport, tls_service):
    service = tls_service(OPEN, wants_certificate=True)
    with pytest.raises(AttemptError, match="another TLS certificate of the client") as caught:
        make_transport(verify=AUTHORITY).exchange(service, scheme="https")
    assert caught.value.outcome is Outcome.UNUSABLE


def test_body_until_close_needs_the_end_of_tls(make_transport, tls_service):
    def answer_with_end(connection: ssl.SSLSocket) -> None:
        connection.sendall(UNTIL_CLOSE)
        connection.unwrap()

    transport = make_transport(verify=AUTHORITY)
    assert transport.exchange(tls_service(answer_with_end), scheme="https").text == "fine"
    with pytest.raises(AttemptError, match="broke off"):
        transport.exchange(tls_service(UNTIL_CLOSE), scheme="https")


def test_silent_handshake_meets_the_deadline_and_closes_its_socket(make_transport, raw_service):
    service = raw_service(lambda connection: connection.recv(1))
    with pytest.raises(AttemptError, match="no answer in time") as caught:
        make_transport(verify=AUTHORITY).exchange(service, scheme="https", timeout_s=0.3)
    assert caught.value.outcome is Outcome.NOT_SENT
    wait_until(lambda: service.ended == service.connections == 1, what="the client to hang up")


def test_service_without_tls_means_not_sent(make_transport, raw_service):
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n\r\n")

    service = raw_service(answer)
    service._serve_request = answer  # it waits for no head
    with pytest.raises(AttemptError) as caught:
        make_transport(verify=AUTHORITY).exchange(service, scheme="https")
    assert caught.value.outcome is Outcome.NOT_SENT


def test_idle_tls_connections_are_limited(make_transport, tls_service, monkeypatch):
    for module in (connection, async_pool):
        monkeypatch.setattr(module, "MAX_IDLE_TLS", 2)
    transport = make_transport(verify=AUTHORITY)
    services = [tls_service(OPEN, keep_open=True) for _ in range(3)]
    for _ in range(2):
        for service in services:
            assert transport.exchange(service, scheme="https").text == "fine"
    assert [service.connections for service in services] == [1, 1, 2]


def test_streamed_body_is_received_over_tls_and_its_connection_reused(make_transport, tls_service):
    transport, service = make_transport(verify=AUTHORITY), tls_service(STREAM, keep_open=True)
    for _ in range(3):
        assert transport.read(transport.exchange(service, scheme="https", stream=True)) == bytes(1_000_000)
    assert service.connections == 1


def test_streamed_body_until_close_needs_the_end_of_tls(make_transport, tls_service):
    def answer_with_end(connection: ssl.SSLSocket) -> None:
        connection.sendall(UNTIL_CLOSE)
        connection.unwrap()

    transport = make_transport(verify=AUTHORITY)
    assert transport.read(transport.exchange(tls_service(answer_with_end), scheme="https", stream=True)) == b"fine"
    with pytest.raises(AttemptError, match="broke off"):
        transport.read(transport.exchange(tls_service(UNTIL_CLOSE), scheme="https", stream=True))
