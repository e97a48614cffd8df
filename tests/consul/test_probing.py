"""Asking evicted instances whether they answer again, with real services behind them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec
from registry_admin.reconcile import probing
from registry_admin.reconcile.probing import Prober, ask, pause_s
from tests.consul.raw_service import RawService, trickle
from tests.parts import free_port, wait_until


def spec(port: int, instance_id: str = "api-1", *, address: str = "127.0.0.1", **check: Any) -> ServiceSpec:
    settings = CheckSpec(**{"interval": "1s", "timeout": "1s"} | check)
    return ServiceSpec(name="api", address=address, port=port, id=instance_id, check=settings)


@pytest.fixture
def make_prober() -> Iterator[Callable[..., tuple[Prober, list[str]]]]:
    """`make_prober(**options)`: a prober, and the list of who has answered."""
    with ExitStack() as stack:

        def make(**options: Any) -> tuple[Prober, list[str]]:
            heard: list[str] = []
            prober = Prober(heard.append, random_share=lambda: 0.0, **options)
            stack.callback(prober.stop)
            return prober, heard

        yield make


@pytest.mark.parametrize(
    ("status", "answers"),
    [(200, True), (204, True), (302, True), (429, True), (400, False), (404, False), (500, False), (503, False)],
)
def test_by_its_status_an_http_service_answers_or_not(http_service, status, answers):
    service = http_service(status=status, headers={"Location": "http://127.0.0.1:1/"})
    assert ask(spec(service.port, path="/health?deep=1")) is answers
    (request,) = service.requests  # and no redirect is followed
    assert (request.method, request.path) == ("GET", "/health?deep=1")
    assert request.headers["Host"] == f"127.0.0.1:{service.port}"


def test_where_nobody_listens_nobody_answers():
    assert not ask(spec(free_port()))
    assert not ask(spec(free_port(), kind=CheckKind.TCP))
    assert not ask(spec(80, address="no-such-host.invalid"))


def test_for_tcp_an_accepted_connection_is_enough():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert ask(spec(listener.getsockname()[1], kind=CheckKind.TCP))


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 20\r\n", trickle(b"HTTP/1.1 ")])
def test_what_is_no_http_reply_in_time_is_no_answer(answer):
    service = RawService(answer)
    assert not ask(spec(service.port, timeout="300ms"))
    service.close()


def test_who_is_evicted_is_heard_of_when_it_listens_again(http_service, make_prober):
    prober, heard = make_prober()
    port, other = free_port(), http_service(status=503)
    prober.watch({"api-1": spec(port), "api-2": spec(other.port, "api-2")})
    wait_until(lambda: other.requests, what="the first probe")
    http_service(port=port)
    wait_until(lambda: heard, what="the answer")
    assert set(heard) == {"api-1"}
    other.status = 200
    wait_until(lambda: "api-2" in heard, what="the other's answer")


def test_who_is_not_watched_any_more_is_not_asked(http_service, make_prober):
    prober, _ = make_prober()
    service = http_service(status=503)
    prober.watch({"api-1": spec(service.port)})
    wait_until(lambda: service.requests, what="the first probe")
    prober.watch({})
    asked = len(service.requests)
    still = http_service(status=503)
    prober.watch({"api-2": spec(still.port, "api-2")})
    wait_until(lambda: len(still.requests) > 2, what="several probes of another")
    assert len(service.requests) <= asked + 1  # one may have been under way


def test_watching_the_same_again_keeps_the_rhythm_and_a_change_is_asked_anew(http_service, make_prober):
    prober, _ = make_prober()
    service = http_service(status=503)
    for _ in range(50):
        prober.watch({"api-1": spec(service.port, interval="1h")})
    wait_until(lambda: service.requests, what="the first probe")
    prober.watch({"api-1": spec(service.port, interval="1h")})
    prober.watch({"api-1": spec(service.port, interval="1h", path="/other")})
    wait_until(lambda: len(service.requests) > 1, what="the second probe")
    assert [request.path for request in service.requests] == ["/health", "/other"]


def test_one_that_hangs_holds_up_nobody(http_service, make_prober):
    prober, heard = make_prober()
    hanging = RawService(trickle(b"HTTP/1.1 "))
    well = http_service()
    prober.watch({"a": spec(hanging.port, "a", timeout="60s"), "b": spec(well.port, "b")})
    wait_until(lambda: heard, what="the answer of the other")
    assert heard[0] == "b"
    hanging.close()


@pytest.mark.parametrize("kind", [CheckKind.TTL, CheckKind.NONE])
def test_where_there_is_nobody_to_ask_it_gets_another_chance_after_a_while(make_prober, monkeypatch, kind):
    monkeypatch.setattr(probing, "FIRST_BLIND_S", 0.05)
    prober, heard = make_prober()
    prober.watch({"api-1": spec(free_port(), kind=kind)})
    wait_until(lambda: len(heard) > 1, what="two chances")


def test_loopback_on_another_machine_can_not_be_asked(http_service, make_prober, monkeypatch):
    monkeypatch.setattr(probing, "FIRST_BLIND_S", 0.05)
    service = http_service(status=503)
    prober, heard = make_prober(consul_host="192.0.2.1")
    prober.watch({"api-1": spec(service.port)})
    wait_until(lambda: heard, what="another chance")
    assert service.requests == []


def test_it_stops_though_a_probe_is_under_way(make_prober):
    hanging = RawService(trickle(b"HTTP/1.1 "))
    prober, heard = make_prober()
    prober.watch({"a": spec(hanging.port, "a", timeout="2s")})
    wait_until(lambda: hanging.requests, what="the probe")
    prober.stop()
    hanging.close()
    for thread in prober._threads:
        thread.join(10)
        assert not thread.is_alive()
    assert heard == []


def test_after_ten_tries_the_pauses_grow_up_to_a_minute_or_the_interval():
    assert [pause_s(10, tries) for tries in (0, 1, 9, 10, 11, 12, 13, 1000)] == [10, 10, 10, 20, 40, 60, 60, 60]
    assert {pause_s(300, tries) for tries in range(50)} == {300}
