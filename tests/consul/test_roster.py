"""What a process knows of the instances it calls: from one watch per service, from before, or from a file."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, ServiceRegistry, ServiceSpec
from registry_admin.discovery import belief
from registry_admin.discovery.balancing import Group
from registry_admin.discovery.cache import Cache
from registry_admin.discovery.directory import Directory
from registry_admin.discovery.roster import Roster
from registry_admin.errors import (
    ConsulPermissionError,
    ConsulUnavailableError,
    NoHealthyInstanceError,
    NoSuchServiceError,
)
from tests.parts import ConsulAgent, RecordingProxy, free_port, wait_until

LOOKUP = "/v1/health/service/api"


@pytest.fixture
def agent(make_agent: Callable[..., ConsulAgent]) -> ConsulAgent:
    """One that may be stopped and may forget."""
    return make_agent()


@pytest.fixture
def directory() -> Iterator[Callable[..., Directory]]:
    """`directory(config, folder=…)`: as in a process that has just started."""
    with ExitStack() as stack:

        def make(config: ConsulConfig, *, folder: Path | None = None, **options: Any) -> Directory:
            api = ConsulApi(config)
            stack.callback(api.close)
            return Directory(api, cache=Cache(str(folder) if folder else None, consul=config.url), **options)

        yield make


def register(agent: ConsulAgent, port: int, *, name: str = "api", **options: Any) -> str:
    spec = ServiceSpec(name=name, address="127.0.0.1", port=port, check=CheckSpec(kind=CheckKind.NONE), **options)
    ServiceRegistry(config=agent.config).register(spec)
    return spec.id


def group(roster: Roster, tag: str | None = None, *, same_node: bool = False, timeout_s: float = 5.0) -> Group:
    return roster.known_group(tag, same_node=same_node) or roster.group(tag, same_node=same_node, timeout_s=timeout_s)


def ports(found: Group) -> list[int]:
    return sorted(endpoint.instance.port for endpoint in found.endpoints)


def lookups(proxy: RecordingProxy) -> int:
    """Those that don't wait for a change. What blocks is noted when it ends."""
    return sum(LOOKUP in exchange.path and "index=" not in exchange.path for exchange in proxy.exchanges)


def test_a_hundred_threads_and_a_thousand_tasks_at_once_cause_one_lookup(agent, directory, recording_proxy):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    shared = directory(proxy.config)
    barrier = threading.Barrier(101)

    def from_thread() -> list[int]:
        barrier.wait()
        return ports(group(shared.roster("api")))

    async def from_tasks() -> list[list[int]]:
        barrier.wait()

        async def one() -> list[int]:
            roster = shared.roster("api")
            return ports(
                roster.known_group(None, same_node=False)
                or await roster.group_async(None, same_node=False, timeout_s=5.0)
            )

        return list(await asyncio.gather(*(one() for _ in range(1000))))

    with ThreadPoolExecutor(101) as pool:
        threads = [pool.submit(from_thread) for _ in range(100)]
        tasks = pool.submit(asyncio.run, from_tasks())
        assert [future.result() for future in threads] == [[1001]] * 100
        assert tasks.result() == [[1001]] * 1000
    assert lookups(proxy) == 1


def test_the_clients_of_one_consul_share_a_directory(agent):
    one, other = ServiceRegistry(config=agent.config), ServiceRegistry(config=agent.config)
    assert Directory.of(one) is Directory.of(other)
    assert Directory.of(one) is not Directory.of(ServiceRegistry(port=free_port()))


def test_a_change_in_consul_is_seen_without_asking(agent, directory):
    register(agent, 1001)
    roster = directory(agent.config).roster("api")
    assert ports(group(roster)) == [1001]
    gone = register(agent, 1002)
    wait_until(lambda: ports(group(roster)) == [1001, 1002], what="the new instance")
    ServiceRegistry(config=agent.config).deregister_service(gone)
    wait_until(lambda: ports(group(roster)) == [1001], what="the instance to be gone")


def test_what_calls_have_shown_survives_a_change_of_the_list(agent, directory):
    register(agent, 1001)
    roster = directory(agent.config).roster("api")
    (endpoint,) = group(roster).endpoints
    endpoint.began(time.monotonic())
    endpoint.succeeded(time.monotonic(), took=0.5)
    register(agent, 1001, tags=("new",))
    wait_until(lambda: roster.state().instances[0].tags == ("new",), what="the tag")
    assert group(roster).endpoints == (endpoint,)
    assert endpoint.latency == 0.5
    register(agent, 1002)
    wait_until(lambda: len(group(roster).endpoints) == 2, what="the second")
    second = next(one for one in group(roster).endpoints if one is not endpoint)
    now = time.monotonic()
    assert (endpoint.readiness(now), second.readiness(now) < 1) == (1, True), "only the new one starts slowly"


def test_a_tag_narrows_the_instances(agent, directory):
    register(agent, 1001, tags=("blue",))
    register(agent, 1002, tags=("green",))
    roster = directory(agent.config).roster("api")
    assert ports(group(roster, "blue")) == [1001]
    assert ports(group(roster, "green")) == [1002]
    with pytest.raises(NoHealthyInstanceError, match="No instance of 'api' carries the tag 'red'"):
        group(roster, "red")


def test_instances_on_the_same_node_come_first_where_there_are_any(agent, directory):
    register(agent, 1001)
    agent.request(
        "PUT",
        "/v1/catalog/register",
        body={
            "Node": "elsewhere",
            "Address": "127.0.0.1",
            "Service": {"Service": "api", "ID": "far", "Address": "127.0.0.1", "Port": 1009},
        },
    )
    shared = directory(agent.config)
    roster = shared.roster("api")
    group(roster)
    wait_until(lambda: len(roster.state().instances) == 2, what="both")
    assert ports(group(roster)) == [1001, 1009]
    assert ports(group(roster, same_node=True)) == [1001]


def test_a_service_that_nobody_registered_and_one_that_fails_are_told_apart(agent, directory):
    shared = directory(agent.config)
    with pytest.raises(NoSuchServiceError, match="knows no service 'nobody'"):
        group(shared.roster("nobody"))
    check = CheckSpec(kind=CheckKind.TCP, interval="300s")
    spec = ServiceSpec(name="api", address="127.0.0.1", port=free_port(), check=check)
    ServiceRegistry(config=agent.config).register(spec)
    with pytest.raises(NoHealthyInstanceError, match=f"{spec.id} at 127.0.0.1:{spec.port} is critical"):
        group(shared.roster("api"))


def test_the_last_known_instances_are_used_while_consul_is_away_and_changes_are_seen_when_it_is_back(agent, directory):
    register(agent, 1001)
    roster = directory(agent.config).roster("api")
    first = group(roster)
    agent.stop()
    wait_until(lambda: roster.state().problem, what="the problem to be noticed")
    assert group(roster) is first, "nothing is looked up or built again"
    assert (roster.state().source, roster.state().age_s > 0) == ("Consul", True)
    agent.start()
    register(agent, 1002)
    wait_until(lambda: not roster.state().problem and 1002 in ports(group(roster)), what="Consul to be heard again")


def test_an_agent_that_has_lost_everything_is_not_believed_at_once(agent, directory, monkeypatch):
    register(agent, 1001)
    for _ in range(30):  # so that the index of the new agent is lower
        register(agent, 1002, name="other", tags=(str(time.monotonic()),))
    roster = directory(agent.config).roster("api")
    assert ports(group(roster)) == [1001]
    agent.lose_state()
    wait_until(lambda: roster.state().problem, what="the problem to be noticed")
    agent.start()
    wait_until(lambda: not roster.state().problem, what="Consul to be heard again")
    assert ports(group(roster)) == [1001]
    monkeypatch.setattr(belief, "LOST_STATE_S", 0.0)
    roster.confirm()
    with pytest.raises(NoSuchServiceError):
        group(roster)


def test_consul_away_and_nothing_known_is_said_at_once_to_everybody_after_the_first(directory):
    config = ConsulConfig(port=free_port())
    roster = directory(config).roster("api")
    for _ in range(50):
        with pytest.raises(ConsulUnavailableError, match="refused the connection"):
            group(roster)


def test_a_frozen_consul_is_waited_for_once(agent, directory):
    register(agent, 1001)
    roster = directory(agent.config).roster("api")
    agent.freeze()
    try:
        for timeout_s in (0.1, 3600.0, 3600.0, 3600.0):
            with ThreadPoolExecutor(1) as pool, pytest.raises(ConsulUnavailableError, match="didn't answer in time"):
                pool.submit(group, roster, timeout_s=timeout_s).result(timeout=30)
        assert list(roster._to_wait_for(3600.0, same_node=False))[-1][1] < time.monotonic(), "nobody waits any more"
    finally:
        agent.thaw()
    wait_until(lambda: roster.state().source == "Consul", what="the answer")
    assert ports(group(roster)) == [1001]


def test_who_has_no_time_or_is_cancelled_does_not_spoil_the_first_lookup_for_others(agent, directory, recording_proxy):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    proxy.spoil(LOOKUP, delay_s=0.3)
    roster = directory(proxy.config).roster("api")

    async def calls() -> list[int]:
        patient = asyncio.create_task(roster.group_async(None, same_node=False, timeout_s=30.0))
        cancelled = asyncio.create_task(roster.group_async(None, same_node=False, timeout_s=30.0))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(ConsulUnavailableError, match="didn't answer in time"):
            await roster.group_async(None, same_node=False, timeout_s=0.01)
        return ports(await patient)

    assert asyncio.run(calls()) == [1001]
    assert lookups(proxy) == 1


def test_a_refusal_outweighs_a_file_but_not_what_was_heard(agent, directory, recording_proxy, tmp_path):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    before = directory(proxy.config, folder=tmp_path).roster("api")
    assert ports(group(before)) == [1001]
    proxy.spoil(LOOKUP, status=403)
    register(agent, 1002)  # ends the blocking query
    wait_until(lambda: "denied" in before.state().problem, what="the refusal")
    assert 1001 in ports(group(before))
    with pytest.raises(ConsulPermissionError):
        group(directory(proxy.config, folder=tmp_path).roster("api"))


def test_a_list_that_acls_have_emptied_is_no_proof_of_absence(agent, directory, recording_proxy):
    proxy = recording_proxy(agent)
    proxy.spoil(LOOKUP, body=b"[]", headers={"X-Consul-Results-Filtered-By-ACLs": "true"})
    with pytest.raises(ConsulPermissionError, match="keeps 'api' from us"):
        group(directory(proxy.config).roster("api"))


def test_an_outage_of_consul_is_no_busy_loop_and_no_thread_for_each_call(directory, recording_proxy, agent, caplog):
    proxy = recording_proxy(agent)
    proxy.spoil(LOOKUP, status=500)
    roster = directory(proxy.config).roster("api")
    with pytest.raises(ConsulUnavailableError, match="500"):
        group(roster)
    threads = threading.active_count()
    for _ in range(200):
        with pytest.raises(ConsulUnavailableError, match="500"):
            group(roster, same_node=True)
    assert threading.active_count() <= threads
    # More than one would have to be half a second apart.
    assert lookups(proxy) <= 3
    assert sum("are not heard of" in message for message in caplog.messages) == 1
    proxy.mend()
    register(agent, 1001)
    wait_until(lambda: not roster.state().problem, what="Consul to be heard")
    assert ports(group(roster)) == [1001]


def test_a_refused_token_is_said(make_agent, directory):
    guarded = make_agent(management_token="00000000-0000-4000-8000-000000000001")
    config = ConsulConfig(port=guarded.port, token="00000000-0000-4000-8000-00000000dead")
    with pytest.raises(ConsulPermissionError, match="doesn't know this token"):
        group(directory(config).roster("api"))


def test_a_process_that_starts_during_an_outage_calls_from_its_file(agent, directory, tmp_path):
    register(agent, 1001, tags=("blue",), weight=7)
    before = directory(agent.config, folder=tmp_path)
    group(before.roster("api"))
    wait_until(lambda: list(tmp_path.glob("*.json")), what="the file")
    agent.stop()
    roster = directory(agent.config, folder=tmp_path).roster("api")
    (endpoint,) = group(roster, "blue").endpoints
    assert (endpoint.url, endpoint.weight, roster.state().source) == ("http://127.0.0.1:1001", 7, "file")
    agent.start()
    register(agent, 1002)
    wait_until(lambda: roster.state().source == "Consul" and 1002 in ports(group(roster)), what="Consul to be believed")


def test_what_is_not_used_is_not_watched_and_what_is_used_again_is_looked_up(agent, directory, recording_proxy):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    shared = directory(proxy.config, idle_s=0.3)
    first = group(shared.roster("api")).endpoints
    wait_until(lambda: shared._rosters["api"].known_group(None, same_node=False) is None, what="the watch to end")
    before = lookups(proxy)
    register(agent, 1002)
    again = group(shared.roster("api"))
    assert ports(again) == [1001, 1002]
    assert first[0] in again.endpoints, "what was learnt of it is kept"
    assert lookups(proxy) == before + 1


def test_a_service_that_is_not_there_is_forgotten_when_nobody_asks(agent, directory):
    shared = directory(agent.config, idle_s=0.1)
    with pytest.raises(NoSuchServiceError):
        group(shared.roster("nobody"))
    wait_until(lambda: not shared._rosters, what="it to be forgotten")


def test_nothing_keeps_a_directory_that_nobody_holds(agent, directory):
    shared = directory(agent.config)
    register(agent, 1001)
    group(shared.roster("api"))
    gone = weakref.ref(shared)
    del shared
    gc.collect()
    assert gone() is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12: there are threads, that is the point
def test_a_forked_child_knows_what_its_parent_knew_and_watches_for_itself(agent, directory):
    register(agent, 1001)
    shared = directory(agent.config)
    group(shared.roster("api"))
    shared.roster("api").outliers.lock.acquire()  # as another thread may have at that moment
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            roster = shared.roster("api")
            (endpoint,) = group(roster).endpoints
            endpoint.began(0.0)
            os.write(writing, f"{ports(group(roster))}".encode())
            register(agent, 1002)
            deadline = time.monotonic() + 20
            while len(group(roster).endpoints) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            os.write(writing, f"{ports(group(roster))}".encode())
        finally:
            os._exit(0)
    shared.roster("api").outliers.lock.release()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"[1001][1001, 1002]"
    os.waitpid(child, 0)


def test_a_reply_that_is_garbage_keeps_what_is_known(agent, directory, recording_proxy):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    roster = directory(proxy.config).roster("api")
    assert ports(group(roster)) == [1001]
    proxy.spoil(LOOKUP, body=b"null")
    register(agent, 1002)
    wait_until(lambda: "invalid reply" in roster.state().problem, what="the problem")
    assert ports(group(roster)) == [1001]
