"""The loop behind `sync_registry --watch`, on a real agent."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, Health, ServiceSpec
from registry_admin.errors import ConsulUnavailableError, StoreUnavailableError
from registry_admin.reconcile.watcher import DEBOUNCE_S, FAILED_DEBOUNCE_S, Watcher
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

        def start(config: ConsulConfig, *, every_s: float = NEVER, fault: Exception | None = None) -> Passes:
            passes = Passes(ConsulApi(config))
            passes.fault = fault
            watcher = Watcher(passes.api, passes, every_s=every_s)
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
    assert str(fault) in caplog.text


def test_after_a_failure_a_change_wakes_it_less_quickly(consul_agent):
    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return self.is_set()

    def one_pass() -> None:
        tries.append(1)
        watcher._wakeups.put(None)
        if len(tries) == 1:
            raise StoreUnavailableError
        if len(tries) == 3:
            watcher.stop()

    waits: list[float | None] = []
    tries: list[int] = []
    watcher = Watcher(ConsulApi(consul_agent.config), one_pass, every_s=NEVER)
    watcher._stop = Stop()
    watcher._pass_after_pass()
    assert waits == [FAILED_DEBOUNCE_S, DEBOUNCE_S]


def test_many_changes_at_about_the_same_time_are_one_wake_up(consul_agent):
    def one_pass() -> None:
        tries.append(1)
        if len(tries) > 1:
            watcher.stop()
        for _ in range(20):
            watcher._wakeups.put(None)

    tries: list[int] = []
    watcher = Watcher(ConsulApi(consul_agent.config), one_pass, every_s=NEVER)
    watcher._pass_after_pass()
    assert len(tries) == 2
    assert watcher._wakeups.empty()


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
