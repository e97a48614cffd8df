"""Calls while an instance dies, freezes or slows down, and while Consul is away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ServiceRegistry, ServiceSpec
from registry_admin.errors import Attempt, CallFailedError, DeadlineExceededError, NoHealthyInstanceError
from tests.parts import ConsulAgent, HttpService, free_port, refusing_port, wait_until

THREADS = 8


class Attempts(list[Attempt]):
    """Attempts that were made, to be counted by instance."""

    def count_at(self, port: int) -> int:
        return sum(attempt.url.endswith(f":{port}") for attempt in self)


def many(caller: Any, count: int, **options: Any) -> Counter[str]:
    """Makes calls one after another; returns how often each text was the response."""
    return Counter(caller.get("api", **options).text for _ in range(count))


@pytest.fixture
def three(process: Callable[[], Any], add: Callable[..., str]) -> list[Any]:
    instances = [process() for _ in range(3)]
    for instance in instances:
        add(instance)
    return instances


def test_killed_instance_costs_no_call_and_is_ejected(three, make_client):
    attempts = Attempts()
    caller = make_client(on_attempt=attempts.append)
    assert sum(many(caller, 30).values()) == 30
    three[0].popen.kill()
    three[0].popen.wait()
    assert sum(many(caller, 60).values()) == 60
    attempts.clear()
    assert sum(many(caller, 100).values()) == 100
    assert attempts.count_at(three[0].port) <= 2, "only probes"


def test_frozen_instance_costs_no_call_and_is_ejected(three, make_client):
    attempts = Attempts()
    caller = make_client(on_attempt=attempts.append)
    many(caller, 30)
    os.kill(three[0].popen.pid, signal.SIGSTOP)
    try:
        for _ in range(12):
            caller.get("api", timeout=2.5)
        attempts.clear()
        assert sum(many(caller, 100).values()) == 100
        assert attempts.count_at(three[0].port) <= 2
    finally:
        os.kill(three[0].popen.pid, signal.SIGCONT)


def test_instance_with_5xx_responses_is_ejected_until_it_recovers(make_client, add, http_service):
    ill, *healthy = [http_service() for _ in range(3)]
    for service in (ill, *healthy):
        add(service)
    caller = make_client()
    ill.status = 500
    wait_until(lambda: caller.get("api").status_code == 200 and len(ill.requests) >= 5)
    before = len(ill.requests)
    assert {caller.get("api").status_code for _ in range(30)} <= {200, 500}
    assert len(ill.requests) - before <= 1, "it is ejected"
    ill.status = 200
    before = len(ill.requests)
    wait_until(lambda: caller.get("api") and len(ill.requests) > before + 5, 30, what="it to be back")


@pytest.mark.parametrize("balancing", ["round-robin", "random", "power-of-two"])
def test_silent_attempt_is_hedged_only_if_the_call_is_repeatable(make_client, add, http_service, balancing):
    released = threading.Event()

    def answer_late(handler: Any, request: Any) -> None:
        if request.method == "GET":
            released.wait(30)
        late.plain_answer(handler, request)

    late, quick = http_service(body=b"late", answer=answer_late), http_service(body=b"quick")
    add(late)
    add(quick)
    attempts = Attempts()
    caller = make_client(balancing=balancing, hedge_after=0.05, on_attempt=attempts.append)
    wait_until(lambda: caller.get("api", timeout=20).text == "quick" and late.requests)
    assert {caller.get("api", timeout=20).text for _ in range(5)} == {"quick"}
    released.set()
    overtaken = [attempt for attempt in attempts if attempt.detail == "another instance answered first"]
    assert {attempt.url for attempt in overtaken} == {late.url}
    for service in (late, quick):
        service.requests.clear()
    for _ in range(6):
        caller.post("api", timeout=20)
    assert len(late.requests) + len(quick.requests) == 6, "each was sent once"


def slow_service(http_service: Any, seconds: float) -> HttpService:
    def answer(handler: Any, request: Any) -> None:
        time.sleep(seconds)
        service.plain_answer(handler, request)

    service: HttpService = http_service(answer=answer)
    return service


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
def test_slow_write_is_sent_to_a_single_instance(make_client, add, http_service, method):
    slow = [slow_service(http_service, 0.8) for _ in range(2)]
    for service in slow:
        add(service)
    caller = make_client(hedge_after=0.05)
    assert caller.call_service("api", method=method, timeout=1.2, headers={"Idempotency-Key": "1"}).status_code == 200
    assert len(slow[0].requests) + len(slow[1].requests) == 1


@pytest.mark.parametrize("where", ["client", "call"])
def test_hedge_false_keeps_a_slow_read_at_a_single_instance(make_client, add, http_service, where):
    slow = [slow_service(http_service, 0.5) for _ in range(2)]
    for service in slow:
        add(service)
    caller = make_client(hedge_after=0.05, hedge=where != "client")
    assert caller.get("api", timeout=5, **({"hedge": False} if where == "call" else {})).status_code == 200
    assert len(slow[0].requests) + len(slow[1].requests) == 1


def test_ejected_instances_are_at_most_half(make_client, add, http_service):
    services = [http_service(status=500) for _ in range(4)]
    for service in services:
        add(service)
    caller = make_client()
    for _ in range(60):
        assert caller.get("api").status_code == 500
    ejected = [instance for instance in caller.explain("api").instances if instance.state != "called"]
    assert len(ejected) == 2
    assert caller.get("api").status_code == 500, "the other instances are called"


@pytest.mark.parametrize("number", [1, 3])
def test_calls_without_a_living_instance_fail_in_time_and_within_the_retry_budget(make_client, registry, number):
    for _ in range(number):
        spec = ServiceSpec(name="api", address="127.0.0.1", port=refusing_port(), check=CheckSpec(kind=CheckKind.NONE))
        registry.register(spec)
    attempts = Attempts()
    caller = make_client(on_attempt=attempts.append)
    wait_until(lambda: len(explained(caller)) == number)
    attempts.clear()
    started_at, calls = time.monotonic(), 200
    for _ in range(calls):
        with pytest.raises(CallFailedError) as caught:
            caller.get("api", timeout=5)
        assert not isinstance(caught.value, DeadlineExceededError)
    allowed = calls * 1.2 + 10 + (time.monotonic() - started_at)
    assert calls <= len(attempts) <= allowed


def explained(caller: Any) -> tuple[Any, ...]:
    with contextlib.suppress(CallFailedError):
        caller.get("api")
    return caller.explain("api").instances


def test_call_without_a_passing_instance_sends_nothing(make_client, registry):
    check = CheckSpec(kind=CheckKind.TCP, interval="300s")
    registry.register(ServiceSpec(name="api", address="127.0.0.1", port=free_port(), check=check))
    attempts = Attempts()
    caller = make_client(on_attempt=attempts.append)
    with pytest.raises(NoHealthyInstanceError, match="is critical"):
        caller.get("api")
    assert not attempts


def test_consul_away_under_load_costs_no_call(make_agent, make_client, http_service):
    agent: ConsulAgent = make_agent()
    registry = ServiceRegistry(config=agent.config)
    services = [http_service() for _ in range(2)]
    for service in services:
        registry.register(
            ServiceSpec(name="api", address=service.host, port=service.port, check=CheckSpec(kind=CheckKind.NONE))
        )
    caller = make_client(registry=registry)
    many(caller, 20)
    agent.stop()
    wait_until(lambda: caller.get("api").ok and caller.explain("api").problem)
    assert sum(many(caller, 300).values()) == 300
    wait_until(lambda: "refused the connection" in str(caller.explain("api")))
    assert caller.explain("api").age_s > 0


MODULE = """
import sys
from registry_admin.discovery import call_service
print(call_service("api", "/", timeout=5).text)
"""


def test_module_that_starts_while_consul_is_away_calls_from_its_disk_cache(make_agent, http_service, tmp_path):
    agent: ConsulAgent = make_agent()
    service = http_service(body=b"from the file")
    ServiceRegistry(config=agent.config).register(
        ServiceSpec(name="api", address=service.host, port=service.port, check=CheckSpec(kind=CheckKind.NONE))
    )
    env = os.environ | agent.env | {"DISCOVERY_CACHE_DIR": str(tmp_path / "cache")}

    def start() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MODULE]
        return subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)

    assert start().stdout == "from the file\n"
    assert list((tmp_path / "cache").glob("*.json"))
    agent.stop()
    assert start().stdout == "from the file\n"
    assert len(service.requests) == 2
    del env["DISCOVERY_CACHE_DIR"]
    assert "ConsulUnavailableError" in start().stderr


def test_threads_share_a_client_while_an_instance_dies(three, registry):
    from registry_admin.discovery import SyncServiceDiscoveryClient

    with SyncServiceDiscoveryClient(registry) as client, ThreadPoolExecutor(THREADS) as pool:
        answers = [pool.submit(client.get, "api") for _ in range(200)]
        three[0].popen.kill()
        answers += [pool.submit(client.get, "api") for _ in range(200)]
        assert {answer.result().status_code for answer in answers} == {200}
