"""Probes of evicted instances, against real services."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from registry_admin.backoff import ExponentialBackoff
from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec
from registry_admin.consul.check_probe import probe_instance
from registry_admin.reconcile import recovery
from registry_admin.reconcile.outage import Place
from registry_admin.reconcile.recovery import Answer, ProbeRequest, Purpose, RecoveryProber, pause_s
from tests.parts import free_port, refusing_port, wait_until
from tests.parts.raw_service import RawService, trickle

pytestmark = pytest.mark.network


def spec(port: int, instance_id: str = "api-1", *, address: str = "127.0.0.1", **check: Any) -> ServiceSpec:
    settings = CheckSpec(**{"interval": "1s", "timeout": "1s"} | check)
    return ServiceSpec(name="api", address=address, port=port, id=instance_id, check=settings)


def requests(specs: dict[str, ServiceSpec]) -> dict[Place, ProbeRequest]:
    """Returns requests for the return of these instances, by ID."""
    return {("n", key): ProbeRequest(declared) for key, declared in specs.items()}


@pytest.fixture
def make_prober() -> Iterator[Callable[..., tuple[RecoveryProber, list[str]]]]:
    """`make_prober(**options)`: returns a prober and the list of IDs that it reports as recovered."""
    with ExitStack() as stack:

        def make(**options: Any) -> tuple[RecoveryProber, list[str]]:
            recovered: list[str] = []
            prober = RecoveryProber(
                lambda place, _answer, _purpose: recovered.append(place[-1]), random_share=lambda: 0.0, **options
            )
            stack.callback(prober.stop)
            return prober, recovered

        yield make


@pytest.mark.parametrize(
    ("status", "answers"),
    [(200, True), (204, True), (302, True), (429, True), (400, False), (404, False), (500, False), (503, False)],
)
def test_http_probe_is_alive_according_to_status(http_service, status, answers):
    service = http_service(status=status, headers={"Location": "http://127.0.0.1:1/"})
    assert probe_instance(spec(service.port, path="/health?deep=1")).is_alive is answers
    (request,) = service.requests  # no redirect is followed
    assert (request.method, request.path) == ("GET", "/health?deep=1")
    assert request.headers["Host"] == f"127.0.0.1:{service.port}"


def test_probe_of_unreachable_endpoint_is_not_alive():
    assert not probe_instance(spec(refusing_port())).is_alive
    assert not probe_instance(spec(refusing_port(), kind=CheckKind.TCP)).is_alive
    assert not probe_instance(spec(80, address="no-such-host.invalid")).is_alive


def test_tcp_probe_with_accepted_connection_is_alive():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert probe_instance(spec(listener.getsockname()[1], kind=CheckKind.TCP)).is_alive


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 20\r\n", trickle(b"HTTP/1.1 ")])
def test_http_probe_with_invalid_or_late_reply_is_not_alive(answer):
    service = RawService(answer)
    assert not probe_instance(spec(service.port, timeout="300ms")).is_alive
    service.close()


def test_prober_reports_evicted_instance_when_it_answers_again(http_service, make_prober):
    prober, recovered = make_prober()
    port, other = free_port(), http_service(status=503)
    prober.watch(requests({"api-1": spec(port), "api-2": spec(other.port, "api-2")}))
    wait_until(lambda: other.requests, what="the first probe")
    http_service(port=port)
    wait_until(lambda: recovered, what="the answer")
    assert set(recovered) == {"api-1"}
    other.status = 200
    wait_until(lambda: "api-2" in recovered, what="the other's answer")


def test_prober_stops_probing_removed_instance(http_service, make_prober):
    prober, _ = make_prober()
    service = http_service(status=503)
    prober.watch(requests({"api-1": spec(service.port)}))
    wait_until(lambda: service.requests, what="the first probe")
    prober.watch(requests({}))
    count = len(service.requests)
    other = http_service(status=503)
    prober.watch(requests({"api-2": spec(other.port, "api-2")}))
    wait_until(lambda: len(other.requests) > 2, what="several probes of another")
    assert len(service.requests) <= count + 1  # a probe may have been under way


def test_prober_keeps_schedule_of_unchanged_instance_and_probes_changed_one_at_once(http_service, make_prober):
    prober, _ = make_prober()
    service = http_service(status=503)
    for _ in range(50):
        prober.watch(requests({"api-1": spec(service.port, interval="1h")}))
    wait_until(lambda: service.requests, what="the first probe")
    prober.watch(requests({"api-1": spec(service.port, interval="1h")}))
    prober.watch(requests({"api-1": spec(service.port, interval="1h", path="/other")}))
    wait_until(lambda: len(service.requests) > 1, what="the second probe")
    assert [request.path for request in service.requests] == ["/health", "/other"]


def test_hanging_instance_does_not_block_other_probes(http_service, make_prober):
    prober, recovered = make_prober()
    hanging = RawService(trickle(b"HTTP/1.1 "))
    healthy = http_service()
    prober.watch(requests({"a": spec(hanging.port, "a", timeout="60s"), "b": spec(healthy.port, "b")}))
    wait_until(lambda: recovered, what="the answer of the other")
    assert recovered[0] == "b"
    hanging.close()


@pytest.mark.parametrize("kind", [CheckKind.TTL, CheckKind.NONE])
def test_instance_without_probe_is_reported_after_a_delay(make_prober, monkeypatch, kind):
    monkeypatch.setattr(recovery, "BLIND", ExponentialBackoff(first_s=0.05, longest_s=600.0))
    prober, recovered = make_prober()
    prober.watch(requests({"api-1": spec(refusing_port(), kind=kind)}))
    wait_until(lambda: len(recovered) > 1, what="two chances")


def test_loopback_instance_of_a_remote_consul_is_reported_without_a_probe(http_service, make_prober, monkeypatch):
    monkeypatch.setattr(recovery, "BLIND", ExponentialBackoff(first_s=0.05, longest_s=600.0))
    service = http_service(status=503)
    prober, recovered = make_prober(consul_host="192.0.2.1")
    prober.watch(requests({"api-1": spec(service.port)}))
    wait_until(lambda: recovered, what="another chance")
    assert service.requests == []


def test_stop_during_a_probe_ends_the_threads(make_prober):
    hanging = RawService(trickle(b"HTTP/1.1 "))
    prober, recovered = make_prober()
    prober.watch(requests({"a": spec(hanging.port, "a", timeout="2s")}))
    wait_until(lambda: hanging.requests, what="the probe")
    prober.stop()
    hanging.close()
    for thread in prober._threads:
        thread.join(10)
        assert not thread.is_alive()
    assert recovered == []


def test_probe_delay_after_ten_tries_grows_to_a_minute_or_the_interval():
    assert [pause_s(10, tries) for tries in (0, 1, 9, 10, 11, 12, 13, 1000)] == [10, 10, 10, 20, 40, 60, 60, 60]
    assert {pause_s(300, tries) for tries in range(50)} == {300}


def test_one_answer_does_not_bring_an_instance_back(http_service, make_prober):
    prober, recovered = make_prober()
    service = http_service(status=200)
    prober.watch(requests({"a": spec(service.port, "a", interval="30s")}))
    wait_until(lambda: service.requests, what="the first answer")
    service.status = 503
    wait_until(lambda: len(service.requests) > 1, 8, "the second probe, at most 5 s later")
    assert recovered == []


@pytest.mark.parametrize("answers", [True, False])
def test_every_probe_before_an_eviction_is_reported(http_service, answers):
    reported: list[tuple[Place, Answer, Purpose]] = []
    prober = RecoveryProber(lambda *report: reported.append(report))
    service = http_service(status=200 if answers else 503)
    prober.watch({("n", "a"): ProbeRequest(spec(service.port, "a"), Purpose.EVICTION)})
    wait_until(lambda: len(reported) > 1, what="two reports")
    prober.stop()
    assert reported[0] == (("n", "a"), Answer(is_alive=answers, is_passing=answers), Purpose.EVICTION)


def test_tarpits_of_one_service_take_a_part_of_the_threads_only(http_service, make_prober):
    """Sixteen instances that accept and say nothing, with a time-out of 10 minutes, as many as there are threads."""
    prober, recovered = make_prober()
    with ExitStack() as stack:
        tarpits = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(16)]
        hanging = {f"t{n}": spec(tarpit.getsockname()[1], f"t{n}", timeout="600s") for n, tarpit in enumerate(tarpits)}
        service = http_service()
        healthy = replace(spec(service.port, "b"), name="other")
        prober.watch(requests(hanging | {"b": healthy}))
        wait_until(lambda: "b" in recovered, 4, "the answer of the other service, before any tarpit's time is over")


def test_tarpits_of_many_services_leave_threads_to_those_that_answer(http_service, make_prober, monkeypatch):
    monkeypatch.setattr(recovery, "SLOW_S", 0.05)
    prober, recovered = make_prober()
    with ExitStack() as stack:
        tarpits = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(32)]
        hanging = {
            f"t{n}": replace(spec(tarpit.getsockname()[1], f"t{n}", timeout="500ms", interval="1s"), name=f"t{n}")
            for n, tarpit in enumerate(tarpits)
        }
        prober.watch(requests(hanging))
        time.sleep(2)  # now all are known as slow
        healthy = replace(spec(http_service().port, "b"), name="other")
        prober.watch(requests({**hanging, "b": healthy}))
        wait_until(lambda: "b" in recovered, 3, "the answer of the other service")


def test_instance_that_needs_longer_than_a_probe_gets_a_chance_by_its_own_check(make_prober, monkeypatch):
    monkeypatch.setattr(recovery, "BLIND", ExponentialBackoff(first_s=0.05, longest_s=600.0))
    monkeypatch.setattr(recovery, "probe_instance", partial(recovery.probe_instance, maximum_s=0.2))
    answers: list[Answer] = []
    prober = RecoveryProber(lambda _place, answer, _purpose: answers.append(answer), random_share=lambda: 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        prober.watch(requests({"a": spec(silent.getsockname()[1], "a", timeout="60s")}))
        wait_until(lambda: answers, what="its chance")
    prober.stop()
    assert answers[0] == Answer(is_alive=True, is_passing=False)
