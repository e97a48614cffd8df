"""The loop behind `sync_registry --watch`, on a real agent."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, Health, ServiceSpec
from registry_admin.errors import ConsulUnavailableError, StoreUnavailableError
from registry_admin.reconcile.watcher import FAILED_SETTLE_S, SETTLE_S, SPREAD, Watcher
from tests.parts import wait_until

NEVER = 3600.0


def spec(instance_id: str = "api-1") -> ServiceSpec:
    return ServiceSpec(name="api", address="127.0.0.1", port=9, id=instance_id, check=CheckSpec(kind=CheckKind.NONE))


class Passes:
    """Counts passes, and remembers what the agent had at each; `fault` is raised by every pass until it is None."""

    def __init__(self, api: ConsulApi) -> None:
        self.api = api
        self.seen: list[dict[str, Health]] = []
        self.fault: Exception | None = None
        self.tried = 0
        self.watcher: Watcher | None = None

    def another_within(self, seconds: float) -> bool:
        """Whether there is another pass in that time."""
        before = self.tried
        time.sleep(seconds)
        return self.tried > before

    def __call__(self) -> None:
        self.tried += 1
        if self.fault:
            raise self.fault
        self.seen.append({key: instance.health for key, instance in self.api.agent_instances().items()})


@pytest.fixture
def watching() -> Iterator[Callable[..., Passes]]:
    """`watching(config, every_s=…)`: a watcher that runs in a thread, and the passes that it makes."""
    with ExitStack() as stack:

        def start(
            config: ConsulConfig, *, every_s: float = NEVER, fault: Exception | None = None, **options: Any
        ) -> Passes:
            passes = Passes(ConsulApi(config))
            passes.fault = fault
            watcher = passes.watcher = Watcher(passes.api, passes, every_s=every_s, **options)
            thread = threading.Thread(target=watcher.run)
            thread.start()

            def end() -> None:
                watcher.stop()
                thread.join(10)
                assert not thread.is_alive(), "the watcher doesn't stop"

            stack.callback(end)
            return passes

        yield start


def settled(passes: Passes) -> None:
    """Waits for the first passes, which the first replies of both watches set off."""
    wait_until(lambda: passes.seen, what="the first pass")


def test_a_pass_is_made_at_once_and_then_on_every_change(registry, consul_agent, watching):
    passes = watching(consul_agent.config)
    settled(passes)
    assert passes.seen[0] == {}
    registry.register(spec())
    wait_until(lambda: passes.seen[-1].keys() == {"api-1"}, what="a pass that sees the registration")
    registry.deregister_service("api-1")
    wait_until(lambda: passes.seen[-1] == {}, what="a pass that sees that it is gone")


def test_a_change_of_health_alone_is_a_change(registry, consul_agent, watching):
    registry.register(
        ServiceSpec(name="api", address="127.0.0.1", port=9, id="api-1", check=CheckSpec(kind=CheckKind.TTL))
    )
    passes = watching(consul_agent.config)
    settled(passes)
    registry.api.update_ttl("api-1:ttl", "passing")
    wait_until(lambda: passes.seen[-1] == {"api-1": Health.PASSING}, what="a pass that sees it pass")
    for status in (Health.WARNING, Health.PASSING, Health.CRITICAL, Health.WARNING, Health.CRITICAL, Health.PASSING):
        registry.api.update_ttl("api-1:ttl", status)
        wait_until(lambda status=status: passes.seen[-1] == {"api-1": status}, what=f"a pass that sees it {status}")
    registry.api.set_maintenance("api-1", enable=True)
    wait_until(lambda: passes.seen[-1] == {"api-1": Health.MAINTENANCE}, what="a pass that sees maintenance")


def test_passes_go_on_even_if_nothing_changes(consul_agent, watching):
    passes = watching(consul_agent.config, every_s=0.05)
    wait_until(lambda: len(passes.seen) > 5, what="several passes")


def test_it_survives_an_agent_that_restarts_empty(make_agent, watching):
    agent = make_agent()
    passes = watching(agent.config)
    settled(passes)
    passes.api.register(spec(), marks={})
    wait_until(lambda: passes.seen[-1].keys() == {"api-1"}, what="a pass that sees the registration")
    agent.stop()
    agent.start()
    wait_until(lambda: passes.seen[-1] == {}, 40, "a pass that sees the empty agent")
    passes.api.register(spec("api-2"), marks={})
    wait_until(lambda: passes.seen[-1].keys() == {"api-2"}, 40, "a pass that sees what came after it")


def test_that_consul_has_gone_is_noticed_without_waiting_for_the_next_pass(make_agent, watching):
    agent = make_agent()
    passes = watching(agent.config, every_s=NEVER)
    settled(passes)
    wait_until(lambda: not passes.another_within(0.5), what="both watches to block")
    os.kill(agent.pid, signal.SIGKILL)
    wait_until(lambda: passes.tried > len(passes.seen), what="a pass that fails")


@pytest.mark.parametrize("fault", [ConsulUnavailableError("away"), StoreUnavailableError("no database")])
def test_a_pass_that_fails_is_repeated_and_its_reason_logged(consul_agent, watching, caplog, monkeypatch, fault):
    monkeypatch.setattr(logging.getLogger("registry_admin"), "propagate", True)
    with caplog.at_level("WARNING", "registry_admin.reconcile"):
        passes = watching(consul_agent.config, fault=fault)
        wait_until(lambda: passes.tried > 1, what="a second try")
        passes.fault = None
        wait_until(lambda: passes.seen, what="a pass that succeeds")
    seen = {id(record): record for record in caplog.records}  # with Django configured, each comes by two handlers
    warned = [record for record in seen.values() if record.levelname == "WARNING"]
    assert [(record.event, record.reason) for record in warned] == [("pass_failed", str(fault))]


class Pauses:
    """In place of the queue of wake-ups: notes how long the watcher would have waited, and gives it what is told."""

    def __init__(self, watcher: Watcher) -> None:
        self.noted: list[float] = []
        self._real = watcher._wakeups
        watcher._wakeups = self

    def put(self, item: None) -> None:
        self._real.put(item)

    def empty(self) -> bool:
        return self._real.empty()

    def get(self, timeout: float | None = None) -> None:
        if timeout is not None:
            self.noted.append(timeout)
        if self._real.empty():
            raise queue.Empty
        self._real.get()


def scripted(consul_agent, *wanted: float | Exception | None, **options: Any) -> tuple[Pauses, list[float]]:
    """A watcher whose passes return or raise these; what it would have waited, and said it would."""
    left, scheduled = list(wanted), []

    def one_pass() -> float | None:
        answer = left.pop(0)
        if not left:
            watcher.stop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    watcher = Watcher(ConsulApi(consul_agent.config), one_pass, on_schedule=scheduled.append, **options)
    pauses = Pauses(watcher)
    watcher._pass_after_pass()
    return pauses, scheduled


def test_full_passes_come_every_so_often_give_or_take_a_tenth(consul_agent):
    for share, factor in ((0.0, 1 - SPREAD), (0.5, 1), (1.0, 1 + SPREAD)):
        pauses, scheduled = scripted(consul_agent, None, None, every_s=300, random_share=lambda share=share: share)
        assert scheduled[0] == pytest.approx(300 * factor)
        assert pauses.noted == pytest.approx([300 * factor], abs=1)


def test_a_pass_says_when_it_wants_to_be_called_again(consul_agent):
    _, scheduled = scripted(consul_agent, 12.5, 1e9, -1.0, None, every_s=300, random_share=lambda: 0.5)
    assert scheduled == [12.5, 300, 0.0, 300]


def test_one_that_wants_to_be_called_at_once_makes_no_busy_loop(consul_agent):
    pauses, _ = scripted(consul_agent, 0.0, None)
    assert pauses.noted == pytest.approx([SETTLE_S], abs=0.05)


def test_failures_make_growing_pauses_with_jitter(consul_agent):
    for share in (0.0, 1.0):
        _, scheduled = scripted(
            consul_agent, *[StoreUnavailableError()] * 8, None, every_s=300, random_share=lambda share=share: share
        )
        assert scheduled[:8] == [pause * (0.5 + share / 2) for pause in (1, 2, 4, 8, 16, 30, 30, 30)]


@pytest.mark.parametrize(("outcome", "settle"), [(None, SETTLE_S), (StoreUnavailableError(), FAILED_SETTLE_S)])
def test_what_comes_during_a_pass_waits_a_moment_and_is_one_more_pass(consul_agent, outcome, settle):
    def one_pass() -> None:
        tries.append(1)
        if len(tries) > 1:
            watcher.stop()
            return
        for _ in range(20):
            watcher.wake()
        if outcome:
            raise outcome

    tries: list[int] = []
    watcher = Watcher(ConsulApi(consul_agent.config), one_pass, every_s=NEVER)
    pauses = Pauses(watcher)
    watcher._pass_after_pass()
    assert len(tries) == 2
    # The first wake-up is taken at once; from then on it waits only until things have settled.
    assert all(pause <= settle for pause in pauses.noted[1:])
    assert len(pauses.noted) > 1


def test_what_comes_after_quiet_is_acted_on_at_once(consul_agent):
    def one_pass() -> None:
        if passed:
            watcher.stop()
        passed.append(1)

    class AfterQuiet(Pauses):
        def get(self, timeout: float | None = None) -> None:
            if timeout is not None:
                self.noted.append(timeout)
                time.sleep(2 * SETTLE_S)  # nothing happens for this long, and then something

    passed: list[int] = []
    watcher = Watcher(ConsulApi(consul_agent.config), one_pass, every_s=NEVER)
    pauses = AfterQuiet(watcher)
    watcher._pass_after_pass()
    assert len(pauses.noted) == 1


def test_it_can_be_woken_by_hand_from_any_thread(consul_agent, watching):
    passes = watching(consul_agent.config)
    settled(passes)
    wait_until(lambda: not passes.another_within(0.5), what="both watches to block")
    before = passes.tried
    passes.watcher.wake()
    wait_until(lambda: passes.tried > before, what="the pass that was asked for")


# -- the pulse --------------------------------------------------------------------------------------------------------


def test_while_consul_answers_it_says_so_and_not_all_the_time(consul_agent, watching):
    alive = threading.Semaphore(0)
    passes = watching(consul_agent.config, pulse_s=0.02, on_alive=alive.release)
    settled(passes)
    assert alive.acquire(timeout=10)
    assert not alive.acquire(timeout=1)


def test_a_consul_that_hangs_is_noticed_and_so_is_that_it_answers_again(
    consul_agent, flaky_proxy, watching, monkeypatch
):
    monkeypatch.setattr("registry_admin.reconcile.watcher.PULSE_TIMEOUT_S", 0.3)
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    config = ConsulConfig(host=proxy.host, port=proxy.port, read_timeout=0.5)
    passes = watching(config, pulse_s=0.05)
    settled(passes)
    wait_until(lambda: not passes.another_within(0.5), what="both watches to block")
    proxy.freeze()
    wait_until(lambda: passes.tried > len(passes.seen), what="a pass that fails")
    before = len(passes.seen)
    proxy.mend()
    wait_until(lambda: len(passes.seen) > before, what="a pass that succeeds")


def test_a_consul_without_a_leader_is_not_alive(http_service, watching):
    consul = http_service(body=b'""')
    said = threading.Event()
    passes = watching(
        ConsulConfig(host=consul.host, port=consul.port),
        pulse_s=0.02,
        on_alive=said.set,
        fault=ConsulUnavailableError("no leader"),
    )
    wait_until(lambda: passes.tried > 1, what="a second try")
    assert not said.is_set()


# -- the end ----------------------------------------------------------------------------------------------------------


def test_it_stops_in_the_middle_of_its_waiting(consul_agent):
    first = threading.Event()
    watcher = Watcher(ConsulApi(consul_agent.config), first.set, every_s=NEVER)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    assert first.wait(10)
    watcher.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_it_stops_during_a_pass_and_makes_no_other(consul_agent):
    def one_pass() -> None:
        made.append(1)
        watcher.stop()

    made: list[int] = []
    watcher = Watcher(ConsulApi(consul_agent.config), one_pass, every_s=0.01)
    watcher.run()
    assert made == [1]
