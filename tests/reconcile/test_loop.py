"""The loop behind `sync_registry --watch`, on a real agent."""

from __future__ import annotations

import logging
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, Health, ServiceSpec
from registry_admin.errors import ConsulUnavailableError, DatabaseUnavailableError
from registry_admin.reconcile.loop import FAILED_SETTLE_S, SETTLE_S, SPREAD, ReconcileLoop
from tests.parts import wait_until

NEVER = 3600.0


def spec(instance_id: str = "api-1") -> ServiceSpec:
    return ServiceSpec(name="api", address="127.0.0.1", port=9, id=instance_id, check=CheckSpec(kind=CheckKind.NONE))


class ReconcileRuns:
    """Runs of the loop, with the agent's instances at each.

    `fault` is raised by every run until it is None; `attempts` counts those runs too.
    """

    def __init__(self, api: ConsulApi) -> None:
        self.api = api
        self.snapshots: list[dict[str, Health]] = []
        self.fault: Exception | None = None
        self.attempts = 0
        self.loop: ReconcileLoop | None = None

    def runs_again_within(self, seconds: float) -> bool:
        """Returns whether another run starts within `seconds`."""
        before = self.attempts
        time.sleep(seconds)
        return self.attempts > before

    def __call__(self) -> None:
        self.attempts += 1
        if self.fault:
            raise self.fault
        self.snapshots.append({key: instance.health for key, instance in self.api.agent_instances().items()})


@pytest.fixture
def start_loop() -> Iterator[Callable[..., ReconcileRuns]]:
    """`start_loop(config, every_s=…)`: starts a loop in a thread and returns its runs."""
    with ExitStack() as stack:

        def start(
            config: ConsulConfig, *, every_s: float = NEVER, fault: Exception | None = None, **options: Any
        ) -> ReconcileRuns:
            runs = ReconcileRuns(ConsulApi(config))
            runs.fault = fault
            loop = runs.loop = ReconcileLoop(runs.api, runs, every_s=every_s, **options)
            thread = threading.Thread(target=loop.run)
            thread.start()

            def stop() -> None:
                loop.stop()
                thread.join(10)
                assert not thread.is_alive(), "the loop doesn't stop"

            stack.callback(stop)
            return runs

        yield start


def wait_for_first_run(runs: ReconcileRuns) -> None:
    """Waits for the first run, which the first replies of both watches cause."""
    wait_until(lambda: runs.snapshots, what="the first run")


def test_loop_runs_at_start_and_on_every_change(registry, consul_agent, start_loop):
    runs = start_loop(consul_agent.config)
    wait_for_first_run(runs)
    assert runs.snapshots[0] == {}
    registry.register(spec())
    wait_until(lambda: runs.snapshots[-1].keys() == {"api-1"}, what="a run that sees the registration")
    registry.deregister_service("api-1")
    wait_until(lambda: runs.snapshots[-1] == {}, what="a run that sees that it is gone")


def test_loop_runs_on_change_of_health_alone(registry, consul_agent, start_loop):
    registry.register(
        ServiceSpec(name="api", address="127.0.0.1", port=9, id="api-1", check=CheckSpec(kind=CheckKind.TTL))
    )
    runs = start_loop(consul_agent.config)
    wait_for_first_run(runs)
    registry.api.update_ttl("api-1:ttl", "passing")
    wait_until(lambda: runs.snapshots[-1] == {"api-1": Health.PASSING}, what="a run that sees it passing")
    for status in (Health.WARNING, Health.PASSING, Health.CRITICAL, Health.WARNING, Health.CRITICAL, Health.PASSING):
        registry.api.update_ttl("api-1:ttl", status)
        wait_until(lambda status=status: runs.snapshots[-1] == {"api-1": status}, what=f"a run that sees it {status}")
    registry.api.set_maintenance("api-1", enable=True)
    wait_until(lambda: runs.snapshots[-1] == {"api-1": Health.MAINTENANCE}, what="a run that sees maintenance")


def test_loop_runs_periodically_without_changes(consul_agent, start_loop):
    runs = start_loop(consul_agent.config, every_s=0.05)
    wait_until(lambda: len(runs.snapshots) > 5, what="several runs")


def test_loop_continues_after_agent_restarts_empty(make_agent, start_loop):
    agent = make_agent()
    runs = start_loop(agent.config)
    wait_for_first_run(runs)
    runs.api.register(spec(), marks={})
    wait_until(lambda: runs.snapshots[-1].keys() == {"api-1"}, what="a run that sees the registration")
    agent.stop()
    agent.start()
    wait_until(lambda: runs.snapshots[-1] == {}, 40, "a run that sees the empty agent")
    runs.api.register(spec("api-2"), marks={})
    wait_until(lambda: runs.snapshots[-1].keys() == {"api-2"}, 40, "a run that sees the later registration")


def test_loop_detects_lost_consul_before_the_next_scheduled_run(make_agent, start_loop):
    agent = make_agent()
    runs = start_loop(agent.config, every_s=NEVER)
    wait_for_first_run(runs)
    wait_until(lambda: not runs.runs_again_within(0.5), what="both watches to block")
    os.kill(agent.pid, signal.SIGKILL)
    wait_until(lambda: runs.attempts > len(runs.snapshots), what="a run that fails")


@pytest.mark.parametrize("fault", [ConsulUnavailableError("away"), DatabaseUnavailableError("no database")])
def test_failed_run_is_repeated_and_its_reason_logged(consul_agent, start_loop, caplog, monkeypatch, fault):
    monkeypatch.setattr(logging.getLogger("registry_admin"), "propagate", True)
    with caplog.at_level("WARNING", "registry_admin.reconcile"):
        runs = start_loop(consul_agent.config, fault=fault)
        wait_until(lambda: runs.attempts > 1, what="a second try")
        runs.fault = None
        wait_until(lambda: runs.snapshots, what="a run that succeeds")
    unique = {id(record): record for record in caplog.records}  # with Django configured, two handlers add each record
    warned = [record for record in unique.values() if record.levelname == "WARNING"]
    assert [(record.event, record.reason) for record in warned] == [("pass_failed", str(fault))]


class RecordedWaits:
    """Replacement of the queue of wake-ups that records how long the loop would have waited, in seconds."""

    def __init__(self, loop: ReconcileLoop) -> None:
        self.timeouts: list[float] = []
        self._real = loop._wakeups
        loop._wakeups = self

    def put(self, item: None) -> None:
        self._real.put(item)

    def empty(self) -> bool:
        return self._real.empty()

    def get(self, timeout: float | None = None) -> None:
        if timeout is not None:
            self.timeouts.append(timeout)
        if self._real.empty():
            raise queue.Empty
        self._real.get()


def run_scripted(
    consul_agent, *outcomes: float | Exception | None, **options: Any
) -> tuple[RecordedWaits, list[float]]:
    """Runs a loop whose runs return or raise `outcomes`; returns its waits and the delays that it announced."""
    remaining, scheduled = list(outcomes), []

    def run_once() -> float | None:
        answer = remaining.pop(0)
        if not remaining:
            loop.stop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    loop = ReconcileLoop(ConsulApi(consul_agent.config), run_once, on_schedule=scheduled.append, **options)
    waits = RecordedWaits(loop)
    loop._run_until_stopped()
    return waits, scheduled


def test_scheduled_runs_are_spread_by_a_tenth(consul_agent):
    for share, factor in ((0.0, 1 - SPREAD), (0.5, 1), (1.0, 1 + SPREAD)):
        waits, scheduled = run_scripted(consul_agent, None, None, every_s=300, random_share=lambda share=share: share)
        assert scheduled[0] == pytest.approx(300 * factor)
        assert waits.timeouts == pytest.approx([300 * factor], abs=1)


def test_run_result_sets_the_next_run_within_the_interval(consul_agent):
    _, scheduled = run_scripted(consul_agent, 12.5, 1e9, -1.0, None, every_s=300, random_share=lambda: 0.5)
    assert scheduled == [12.5, 300, 0.0, 300]


def test_run_requesting_immediate_repeat_waits_the_settle_time(consul_agent):
    waits, _ = run_scripted(consul_agent, 0.0, None)
    assert waits.timeouts == pytest.approx([SETTLE_S], abs=0.05)


def test_failed_runs_back_off_with_jitter(consul_agent):
    for share in (0.0, 1.0):
        _, scheduled = run_scripted(
            consul_agent, *[DatabaseUnavailableError()] * 8, None, every_s=300, random_share=lambda share=share: share
        )
        assert scheduled[:8] == [pause * (0.5 + share / 2) for pause in (1, 2, 4, 8, 16, 30, 30, 30)]


@pytest.mark.parametrize(("outcome", "settle"), [(None, SETTLE_S), (DatabaseUnavailableError(), FAILED_SETTLE_S)])
def test_wakeups_during_a_run_cause_a_single_further_run(consul_agent, outcome, settle):
    def run_once() -> None:
        calls.append(1)
        if len(calls) > 1:
            loop.stop()
            return
        for _ in range(20):
            loop.wake()
        if outcome:
            raise outcome

    calls: list[int] = []
    loop = ReconcileLoop(ConsulApi(consul_agent.config), run_once, every_s=NEVER)
    waits = RecordedWaits(loop)
    loop._run_until_stopped()
    assert len(calls) == 2
    # The first wake-up is handled at once; later waits last at most the settle time.
    assert all(pause <= settle for pause in waits.timeouts[1:])
    assert len(waits.timeouts) > 1


def test_wakeup_after_quiet_period_runs_at_once(consul_agent):
    def run_once() -> None:
        if calls:
            loop.stop()
        calls.append(1)

    class AfterQuiet(RecordedWaits):
        def get(self, timeout: float | None = None) -> None:
            if timeout is not None:
                self.timeouts.append(timeout)
                time.sleep(2 * SETTLE_S)  # a quiet period before the wake-up

    calls: list[int] = []
    loop = ReconcileLoop(ConsulApi(consul_agent.config), run_once, every_s=NEVER)
    waits = AfterQuiet(loop)
    loop._run_until_stopped()
    assert len(waits.timeouts) == 1


def test_wake_from_another_thread_causes_a_run(consul_agent, start_loop):
    runs = start_loop(consul_agent.config)
    wait_for_first_run(runs)
    wait_until(lambda: not runs.runs_again_within(0.5), what="both watches to block")
    before = runs.attempts
    runs.loop.wake()
    wait_until(lambda: runs.attempts > before, what="the requested run")


# -- pulse ------------------------------------------------------------------------------------------------------------


def test_on_alive_is_called_once_while_consul_does_not_change(consul_agent, start_loop):
    alive = threading.Semaphore(0)
    runs = start_loop(consul_agent.config, pulse_s=0.02, on_alive=alive.release)
    wait_for_first_run(runs)
    assert alive.acquire(timeout=10)
    assert not alive.acquire(timeout=1)


def test_hanging_consul_and_its_recovery_are_detected(consul_agent, flaky_proxy, start_loop, monkeypatch):
    monkeypatch.setattr("registry_admin.reconcile.loop.ALIVE_CHECK_TIMEOUT_S", 0.3)
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    config = ConsulConfig(host=proxy.host, port=proxy.port, read_timeout=0.5)
    runs = start_loop(config, pulse_s=0.05)
    wait_for_first_run(runs)
    wait_until(lambda: not runs.runs_again_within(0.5), what="both watches to block")
    proxy.freeze()
    wait_until(lambda: runs.attempts > len(runs.snapshots), what="a run that fails")
    before = len(runs.snapshots)
    proxy.restore()
    wait_until(lambda: len(runs.snapshots) > before, what="a run that succeeds")


def test_consul_without_leader_is_not_reported_alive(http_service, start_loop):
    consul = http_service(body=b'""')
    alive = threading.Event()
    runs = start_loop(
        ConsulConfig(host=consul.host, port=consul.port),
        pulse_s=0.02,
        on_alive=alive.set,
        fault=ConsulUnavailableError("no leader"),
    )
    wait_until(lambda: runs.attempts > 1, what="a second try")
    assert not alive.is_set()


def test_blocking_reads_of_the_loop_end_before_any_consul_breaks_them_off(http_service, start_loop):
    """Some builds of 1.22 end a reply after 30 s; Consul itself adds a sixteenth to a wait."""
    consul = http_service(body=b"[]", headers={"X-Consul-Index": "5"})
    start_loop(ConsulConfig(host=consul.host, port=consul.port))

    def waits_ms() -> list[int]:
        paths = [request.path for request in list(consul.requests)]
        return [int(match[1]) for path in paths if (match := re.search(r"[?&]wait=(\d+)ms", path))]

    wait_until(lambda: len(waits_ms()) > 2, what="blocking reads")
    assert max(waits_ms()) * 17 / 16 < 30_000


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_while_waiting_ends_the_loop(consul_agent):
    first = threading.Event()
    loop = ReconcileLoop(ConsulApi(consul_agent.config), first.set, every_s=NEVER)
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert first.wait(10)
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_stop_during_a_run_prevents_further_runs(consul_agent):
    def run_once() -> None:
        calls.append(1)
        loop.stop()

    calls: list[int] = []
    loop = ReconcileLoop(ConsulApi(consul_agent.config), run_once, every_s=0.01)
    loop.run()
    assert calls == [1]
