"""Calls go on while an instance dies, freezes or slows down, and while Consul is away; no outage is made worse."""

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
from registry_admin.discovery.policy import Attempt
from registry_admin.errors import CallFailedError, DeadlineExceededError, NoHealthyInstanceError
from tests.parts import ConsulAgent, free_port, wait_until

AT_ONCE = 8


class Attempts(list[Attempt]):
    """All that were made, by instance."""

    def on(self, port: int) -> int:
        return sum(attempt.url.endswith(f":{port}") for attempt in self)


def many(caller: Any, count: int, **options: Any) -> Counter[str]:
    """Calls made one after another; returns who answered how often."""
    return Counter(caller.get("api", **options).text for _ in range(count))


@pytest.fixture
def three(process: Callable[[], Any], add: Callable[..., str]) -> list[Any]:
    instances = [process() for _ in range(3)]
    for one in instances:
        add(one)
    return instances


def test_a_killed_instance_costs_no_call_and_is_soon_left_alone(three, make_client):
    attempts = Attempts()
    caller = make_client(on_attempt=attempts.append)
    assert sum(many(caller, 30).values()) == 30
    three[0].popen.kill()
    three[0].popen.wait()
    assert sum(many(caller, 60).values()) == 60
    attempts.clear()
    assert sum(many(caller, 100).values()) == 100
    assert attempts.on(three[0].port) <= 2, "only probes"


def test_a_frozen_instance_costs_no_call_and_is_soon_left_alone(three, make_client):
    attempts = Attempts()
    caller = make_client(on_attempt=attempts.append)
    many(caller, 30)
    os.kill(three[0].popen.pid, signal.SIGSTOP)
    try:
        for _ in range(12):
            caller.get("api", timeout=2.5)
        attempts.clear()
        assert sum(many(caller, 100).values()) == 100
        assert attempts.on(three[0].port) <= 2
    finally:
        os.kill(three[0].popen.pid, signal.SIGCONT)


def test_an_instance_that_answers_5xx_is_left_out_and_comes_back_when_it_is_well(make_client, add, http_service):
    ill, *others = [http_service() for _ in range(3)]
    for one in (ill, *others):
        add(one)
    caller = make_client()
    ill.status = 500
    wait_until(lambda: caller.get("api").status_code == 200 and len(ill.requests) >= 5)
    before = len(ill.requests)
    assert {caller.get("api").status_code for _ in range(30)} <= {200, 500}
    assert len(ill.requests) - before <= 1, "it is left out"
    ill.status = 200
    before = len(ill.requests)
    wait_until(lambda: caller.get("api") and len(ill.requests) > before + 5, 30, what="it to be back")


@pytest.mark.parametrize("balancing", ["round-robin", "random", "power-of-two"])
def test_what_may_be_repeated_is_sent_beside_a_silent_attempt_and_what_may_not_is_waited_for(
    make_client, add, http_service, balancing
):
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


def test_never_more_than_half_are_left_out(make_client, add, http_service):
    services = [http_service(status=500) for _ in range(4)]
    for one in services:
        add(one)
    caller = make_client()
    for _ in range(60):
        assert caller.get("api").status_code == 500
    left_out = [one for one in caller.explain("api").instances if one.state != "called"]
    assert len(left_out) == 2
    assert caller.get("api").status_code == 500, "and the others are called"


@pytest.mark.parametrize("number", [1, 3])
def test_where_all_are_down_every_call_fails_in_time_and_attempts_stay_within_the_budget(make_client, registry, number):
    for _ in range(number):
        spec = ServiceSpec(name="api", address="127.0.0.1", port=free_port(), check=CheckSpec(kind=CheckKind.NONE))
        registry.register(spec)
    attempts = Attempts()
    caller = make_client(on_attempt=attempts.append)
    wait_until(lambda: len(known(caller)) == number)
    attempts.clear()
    began, calls = time.monotonic(), 200
    for _ in range(calls):
        with pytest.raises(CallFailedError) as caught:
            caller.get("api", timeout=5)
        assert not isinstance(caught.value, DeadlineExceededError)
    allowed = calls * 1.2 + 10 + (time.monotonic() - began)
    assert calls <= len(attempts) <= allowed


def known(caller: Any) -> tuple[Any, ...]:
    with contextlib.suppress(CallFailedError):
        caller.get("api")
    return caller.explain("api").instances


def test_where_consul_says_that_all_are_down_nothing_is_sent(make_client, registry):
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
    for one in services:
        registry.register(
            ServiceSpec(name="api", address=one.host, port=one.port, check=CheckSpec(kind=CheckKind.NONE))
        )
    caller = make_client(registry=registry)
    many(caller, 20)
    agent.stop()
    wait_until(lambda: caller.get("api").ok and caller.explain("api").problem)
    assert sum(many(caller, 300).values()) == 300
    explanation = caller.explain("api")
    assert "refused the connection" in str(explanation)
    assert explanation.age_s > 0


MODULE = """
import sys
from registry_admin.discovery import call_service
print(call_service("api", "/", timeout=5).text)
"""


def test_a_module_that_starts_during_an_outage_calls_from_its_file(make_agent, http_service, tmp_path):
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


def test_threads_share_one_client_while_an_instance_dies(three, registry):
    from registry_admin.discovery import SyncServiceDiscoveryClient

    with SyncServiceDiscoveryClient(registry) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = [pool.submit(client.get, "api") for _ in range(200)]
        three[0].popen.kill()
        answers += [pool.submit(client.get, "api") for _ in range(200)]
        assert {answer.result().status_code for answer in answers} == {200}
