"""Asking an instance as its check would, with real services behind it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from registry_admin.consul.check_probe import ProbeStage, probe_instance
from registry_admin.consul.checks import CheckKind, CheckSpec
from registry_admin.consul.service_spec import ServiceSpec
from tests.parts import refusing_port
from tests.parts.raw_service import FINE, RawService, endless, trickle

pytestmark = pytest.mark.network


def make_spec(port: int, **check: Any) -> ServiceSpec:
    return ServiceSpec(name="api", address="127.0.0.1", port=port, check=CheckSpec(**check))


@pytest.mark.parametrize(
    ("status", "is_alive", "is_passing"),
    [(200, True, True), (302, True, False), (429, True, False), (404, False, False), (503, False, False)],
)
def test_probe_http_status_decides_alive_and_passing(http_service, status, is_alive, is_passing):
    result = probe_instance(make_spec(http_service(status=status).port))
    assert (result.stage, result.status) == (ProbeStage.REPLIED, status)
    assert (result.is_alive, result.is_passing) == (is_alive, is_passing)


@pytest.mark.parametrize("kind", [CheckKind.HTTP, CheckKind.TCP])
def test_probe_without_a_listener_is_not_connected(kind):
    result = probe_instance(make_spec(refusing_port(), kind=kind))
    assert (result.stage, result.is_alive, result.is_passing) == (ProbeStage.NOT_CONNECTED, False, False)


def test_probe_tcp_passes_once_connected():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = probe_instance(make_spec(listener.getsockname()[1], kind=CheckKind.TCP))
    assert (result.stage, result.is_alive, result.is_passing) == (ProbeStage.CONNECTED, True, True)


@pytest.mark.parametrize("kind", [CheckKind.TTL, CheckKind.NONE])
def test_probe_of_a_check_that_asks_nobody_is_passing_without_a_connection(kind):
    result = probe_instance(make_spec(refusing_port(), kind=kind))
    assert (result.stage, result.is_passing) == (ProbeStage.NOT_PROBED, True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_probe_http_of_another_protocol_is_connected_and_failed(scheme):
    service = RawService(b"garbage\r\n\r\n")
    result = probe_instance(make_spec(service.port, scheme=scheme), timeout_s=1.0)
    service.close()
    assert (result.stage, result.is_alive, result.is_passing) == (ProbeStage.CONNECTED, False, False)


def redirecting(target: str, *, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nServer: x\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(("answer", "passing"), [(200, True), (503, False)])
def test_probe_follows_a_redirect_and_takes_its_target_s_status(http_service, status, answer, passing):
    target = http_service(status=answer)
    with closing(RawService(redirecting(f"http://127.0.0.1:{target.port}/deep?x=1", status=status))) as service:
        result = probe_instance(make_spec(service.port))
    assert (result.is_passing, result.status) == (passing, answer)
    (request,) = target.requests
    assert (request.method, request.path) == ("GET", "/deep?x=1")
    assert request.headers["Host"] == f"127.0.0.1:{target.port}"


def test_probe_follows_a_relative_redirect_on_the_same_host():
    answers = iter([redirecting("/login"), FINE])
    with closing(RawService(lambda connection: connection.sendall(next(answers)))) as service:
        assert probe_instance(make_spec(service.port)).is_passing
    assert [head.split(b" ")[1] for head in service.heads] == [b"/health", b"/login"]


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://metadata.google.internal/",
        "ftp://127.0.0.1/",
        "http://",
        "/a b",
        "http://127.0.0.1:1/",
    ],
)
def test_probe_redirect_to_nowhere_is_alive_and_not_passing(target):
    with closing(RawService(redirecting(target))) as service:
        result = probe_instance(make_spec(service.port))
    assert (result.is_alive, result.is_passing, result.status) == (True, False, 302)
    assert "where that leads to" in result.text or target == "/a b"


def test_probe_gives_up_after_ten_redirects():
    with closing(RawService(redirecting("/again"))) as service:
        result = probe_instance(make_spec(service.port))
    assert (result.is_passing, service.requests) == (False, 11)
    assert "redirected more than 10 times" in result.text


@pytest.mark.parametrize("allowed", ["5s", "600s"])
def test_probe_takes_five_seconds_at_most_whatever_the_check_allows(allowed):
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = probe_instance(make_spec(silent.getsockname()[1], timeout=allowed), maximum_s=0.3)
    assert time.monotonic() - started < 3
    assert (result.is_alive, result.is_undecided) == (False, True)


@pytest.mark.parametrize(
    "answer",
    [
        trickle(b""),
        trickle(b"HTTP/1.1 "),
        trickle(b"HTTP/1.1 302 Found\r\nLocation: "),
        endless(b"HTTP/1.1 302 Found\r\n", part=b"X: y\r\n"),
    ],
    ids=["nothing", "status line", "location", "endless head"],
)
def test_probe_of_a_slow_reply_ends_in_time(answer):
    started = time.monotonic()
    with closing(RawService(answer)) as service:
        result = probe_instance(make_spec(service.port, timeout="500ms"))
    assert time.monotonic() - started < 3
    assert not result.is_passing


def test_probe_with_slow_body_passes_by_its_status():
    with closing(RawService(trickle(b"HTTP/1.1 200 OK\r\n\r\n"))) as service:
        assert probe_instance(make_spec(service.port, timeout="1s")).is_passing


def test_probe_of_a_hanging_tls_handshake_ends_in_time():
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = probe_instance(make_spec(silent.getsockname()[1], scheme="https", timeout="300ms"))
    assert time.monotonic() - started < 3
    assert (result.stage, result.failed) == (ProbeStage.CONNECTED, True)


def test_probe_of_a_name_that_is_not_resolved_ends_in_time(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: released.wait(30) and [])
    started = time.monotonic()
    slow = ServiceSpec(name="api", address="slow.example", port=80, check=CheckSpec(timeout="300ms"))
    results = [probe_instance(slow) for _ in range(2)]
    assert time.monotonic() - started < 3
    assert {(result.stage, result.text) for result in results} == {(ProbeStage.NOT_CONNECTED, "no answer within 0.3s")}
    assert sum(thread.name == "resolve" for thread in threading.enumerate()) == 1  # both share the lookup
    released.set()


def test_probe_counts_all_addresses_of_a_name_against_its_time(monkeypatch):
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", 0)) for n in range(50)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: addresses)
    started = time.monotonic()
    many = ServiceSpec(name="api", address="many.example", port=80, check=CheckSpec(timeout="300ms"))
    assert not probe_instance(many).is_alive
    assert time.monotonic() - started < 3


def test_probe_ends_at_its_own_time_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = probe_instance(make_spec(silent.getsockname()[1]), timeout_s=0.2)
    assert (result.stage, result.text) == (ProbeStage.CONNECTED, "no answer within 0.2s")
