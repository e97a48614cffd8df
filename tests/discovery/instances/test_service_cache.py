"""Cached instances of a service: from its watch, from before an outage, or from disk."""

from __future__ import annotations

import asyncio
import gc
import os
import re
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
from registry_admin.discovery.instances import last_known_good, service_watch, watch_slots
from registry_admin.discovery.instances import service_cache as service_cache_module
from registry_admin.discovery.instances.disk_cache import DiskCache
from registry_admin.discovery.instances.load_balancing import InstanceGroup
from registry_admin.discovery.instances.registry_cache import RegistryCache
from registry_admin.discovery.instances.service_cache import ServiceCache
from registry_admin.discovery.instances.watch_slots import BLOCKING_SLOTS, SHORT_SLOTS
from registry_admin.errors import (
    ConsulPermissionError,
    ConsulUnavailableError,
    NoHealthyInstanceError,
    NoSuchServiceError,
)
from tests.parts import ConsulAgent, RecordingProxy, free_port, refusing_port, wait_until

LOOKUP = "/v1/health/service/api"


@pytest.fixture
def agent(make_agent: Callable[..., ConsulAgent]) -> ConsulAgent:
    """An agent of its own, which the test may stop and whose state it may delete."""
    return make_agent()


@pytest.fixture
def registry_cache() -> Iterator[Callable[..., RegistryCache]]:
    """`registry_cache(config, folder=…)`: an empty cache, as in a process that has just started."""
    with ExitStack() as stack:

        def make(config: ConsulConfig, *, folder: Path | None = None, **options: Any) -> RegistryCache:
            api = ConsulApi(config)
            stack.callback(api.close)
            disk_cache = DiskCache(str(folder) if folder else None, consul_url=config.url)
            return RegistryCache(api, disk_cache=disk_cache, **options)

        yield make


def register(agent: ConsulAgent, port: int, *, name: str = "api", **options: Any) -> str:
    spec = ServiceSpec(name=name, address="127.0.0.1", port=port, check=CheckSpec(kind=CheckKind.NONE), **options)
    ServiceRegistry(config=agent.config).register(spec)
    return spec.id


def group(
    service_cache: ServiceCache, tag: str | None = None, *, same_node: bool = False, timeout_s: float = 5.0
) -> InstanceGroup:
    return service_cache.cached_group(tag, same_node=same_node) or service_cache.wait_for_group(
        tag, same_node=same_node, timeout_s=timeout_s
    )


def ports(group: InstanceGroup) -> list[int]:
    return sorted(endpoint.instance.port for endpoint in group.endpoints)


def lookups(proxy: RecordingProxy) -> int:
    """Number of lookups that didn't block; a blocking query is recorded when it ends."""
    return sum(LOOKUP in exchange.path and "index=" not in exchange.path for exchange in proxy.exchanges)


def test_service_cache_used_by_many_threads_and_tasks_at_once_makes_one_lookup(agent, registry_cache, recording_proxy):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    shared = registry_cache(proxy.config)
    barrier = threading.Barrier(101)

    def from_thread() -> list[int]:
        barrier.wait()
        return ports(group(shared.service_cache("api")))

    async def from_tasks() -> list[list[int]]:
        barrier.wait()

        async def from_task() -> list[int]:
            service_cache = shared.service_cache("api")
            return ports(
                service_cache.cached_group(None, same_node=False)
                or await service_cache.wait_for_group_async(None, same_node=False, timeout_s=5.0)
            )

        return list(await asyncio.gather(*(from_task() for _ in range(1000))))

    with ThreadPoolExecutor(101) as pool:
        threads = [pool.submit(from_thread) for _ in range(100)]
        tasks = pool.submit(asyncio.run, from_tasks())
        assert [future.result() for future in threads] == [[1001]] * 100
        assert tasks.result() == [[1001]] * 1000
    assert lookups(proxy) == 1


def test_for_registry_same_consul_returns_the_same_cache(agent):
    first, second = ServiceRegistry(config=agent.config), ServiceRegistry(config=agent.config)
    shared = RegistryCache.for_registry(first)
    assert RegistryCache.for_registry(second) is shared
    assert RegistryCache.for_registry(ServiceRegistry(port=refusing_port())) is not shared


def test_service_cache_follows_changes_in_consul(agent, registry_cache):
    register(agent, 1001)
    service_cache = registry_cache(agent.config).service_cache("api")
    assert ports(group(service_cache)) == [1001]
    removed_id = register(agent, 1002)
    wait_until(lambda: ports(group(service_cache)) == [1001, 1002], what="the new instance")
    ServiceRegistry(config=agent.config).deregister_service(removed_id)
    wait_until(lambda: ports(group(service_cache)) == [1001], what="the removal")


def test_endpoint_statistics_survive_a_change_of_the_list(agent, registry_cache):
    register(agent, 1001)
    service_cache = registry_cache(agent.config).service_cache("api")
    (endpoint,) = group(service_cache).endpoints
    endpoint.start_attempt(time.monotonic())
    endpoint.record_success(time.monotonic(), duration_s=0.5)
    register(agent, 1001, tags=("new",))
    wait_until(lambda: service_cache.state.instances[0].tags == ("new",), what="the tag")
    assert group(service_cache).endpoints == (endpoint,)
    assert endpoint.latency == 0.5
    register(agent, 1002)
    wait_until(lambda: len(group(service_cache).endpoints) == 2, what="the second")
    second = next(other for other in group(service_cache).endpoints if other is not endpoint)
    now = time.monotonic()
    assert (endpoint.slow_start_share(now), second.slow_start_share(now) < 1) == (1, True), (
        "only the new one starts slowly"
    )


def test_group_by_tag_holds_only_instances_with_the_tag(agent, registry_cache):
    register(agent, 1001, tags=("blue",))
    register(agent, 1002, tags=("green",))
    service_cache = registry_cache(agent.config).service_cache("api")
    assert ports(group(service_cache, "blue")) == [1001]
    assert ports(group(service_cache, "green")) == [1002]
    with pytest.raises(NoHealthyInstanceError, match="No instance of 'api' carries the tag 'red'"):
        group(service_cache, "red")


def test_group_of_same_node_holds_only_local_instances_if_there_are_any(agent, registry_cache):
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
    shared = registry_cache(agent.config)
    service_cache = shared.service_cache("api")
    group(service_cache)
    wait_until(lambda: len(service_cache.state.instances) == 2, what="both")
    assert ports(group(service_cache)) == [1001, 1009]
    assert ports(group(service_cache, same_node=True)) == [1001]


def test_group_unknown_service_and_critical_service_raise_different_errors(agent, registry_cache):
    shared = registry_cache(agent.config)
    with pytest.raises(NoSuchServiceError, match="knows no service 'missing'"):
        group(shared.service_cache("missing"))
    check = CheckSpec(kind=CheckKind.TCP, interval="300s")
    spec = ServiceSpec(name="api", address="127.0.0.1", port=free_port(), check=check)
    ServiceRegistry(config=agent.config).register(spec)
    with pytest.raises(NoHealthyInstanceError, match=f"{spec.id} at 127.0.0.1:{spec.port} is critical"):
        group(shared.service_cache("api"))


def test_service_cache_keeps_instances_during_an_outage_and_follows_changes_after_it(agent, registry_cache, caplog):
    register(agent, 1001)
    service_cache = registry_cache(agent.config).service_cache("api")
    first = group(service_cache)
    agent.stop()
    wait_until(lambda: service_cache.state.error, what="the error to be noticed")
    assert group(service_cache) is first, "nothing is looked up or built again"
    assert (service_cache.state.source, service_cache.state.age_s > 0) == ("Consul", True)
    agent.start()
    register(agent, 1002)
    wait_until(
        lambda: not service_cache.state.error and 1002 in ports(group(service_cache)),
        what="the watch to work again",
    )
    assert re.search(r"Watching api failed, using the 1 instance known since \d\d:\d\d:\d\d: ", caplog.text)
    assert "Watching api works again." in caplog.text


def test_service_cache_keeps_instances_for_a_while_after_the_agent_lost_its_state(agent, registry_cache, monkeypatch):
    register(agent, 1001)
    for _ in range(30):  # so that the index of the new agent is lower
        register(agent, 1002, name="other", tags=(str(time.monotonic()),))
    service_cache = registry_cache(agent.config).service_cache("api")
    assert ports(group(service_cache)) == [1001]
    agent.lose_state()
    wait_until(lambda: service_cache.state.error, what="the error to be noticed")
    agent.start()
    wait_until(lambda: not service_cache.state.error, what="the watch to work again")
    assert ports(group(service_cache)) == [1001]
    monkeypatch.setattr(last_known_good, "LOST_STATE_S", 0.0)
    service_cache.on_reply()
    with pytest.raises(NoSuchServiceError):
        group(service_cache)


@pytest.mark.network
def test_group_consul_away_and_nothing_cached_fails_at_once_after_the_first_call(registry_cache):
    config = ConsulConfig(port=refusing_port())
    service_cache = registry_cache(config).service_cache("api")
    for _ in range(50):
        with pytest.raises(ConsulUnavailableError, match="refused the connection"):
            group(service_cache)


def test_group_frozen_consul_delays_only_the_first_calls(agent, registry_cache):
    register(agent, 1001)
    service_cache = registry_cache(agent.config).service_cache("api")
    agent.freeze()
    try:
        for timeout_s in (0.1, 3600.0, 3600.0, 3600.0):
            with ThreadPoolExecutor(1) as pool, pytest.raises(ConsulUnavailableError, match="didn't answer in time"):
                pool.submit(group, service_cache, timeout_s=timeout_s).result(timeout=30)
        assert list(service_cache._lookups(3600.0, same_node=False))[-1][1] < time.monotonic(), "no further call waits"
    finally:
        agent.thaw()
    wait_until(lambda: service_cache.state.source == "Consul", what="the answer")
    assert ports(group(service_cache)) == [1001]


def test_group_async_cancelled_or_timed_out_call_leaves_the_lookup_to_other_calls(
    agent, registry_cache, recording_proxy
):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    proxy.inject_fault(LOOKUP, delay_s=0.3)
    service_cache = registry_cache(proxy.config).service_cache("api")

    async def calls() -> list[int]:
        patient = asyncio.create_task(service_cache.wait_for_group_async(None, same_node=False, timeout_s=30.0))
        cancelled = asyncio.create_task(service_cache.wait_for_group_async(None, same_node=False, timeout_s=30.0))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(ConsulUnavailableError, match="didn't answer in time"):
            await service_cache.wait_for_group_async(None, same_node=False, timeout_s=0.01)
        return ports(await patient)

    assert asyncio.run(calls()) == [1001]
    assert lookups(proxy) == 1


def test_on_error_refusal_drops_instances_from_disk_but_not_from_consul(
    agent, registry_cache, recording_proxy, tmp_path
):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    before = registry_cache(proxy.config, folder=tmp_path).service_cache("api")
    assert ports(group(before)) == [1001]
    proxy.inject_fault(LOOKUP, status=403)
    register(agent, 1002)  # ends the blocking query
    wait_until(lambda: "denied" in before.state.error, what="the refusal")
    assert 1001 in ports(group(before))
    with pytest.raises(ConsulPermissionError):
        group(registry_cache(proxy.config, folder=tmp_path).service_cache("api"))


def test_group_list_emptied_by_acls_is_a_permission_error(agent, registry_cache, recording_proxy):
    proxy = recording_proxy(agent)
    proxy.inject_fault(LOOKUP, body=b"[]", headers={"X-Consul-Results-Filtered-By-ACLs": "true"})
    with pytest.raises(ConsulPermissionError, match="hides the instances of 'api'"):
        group(registry_cache(proxy.config).service_cache("api"))


def test_service_cache_outage_causes_no_busy_loop_and_no_thread_per_call(
    registry_cache, recording_proxy, agent, caplog
):
    proxy = recording_proxy(agent)
    proxy.inject_fault(LOOKUP, status=500)
    service_cache = registry_cache(proxy.config).service_cache("api")
    with pytest.raises(ConsulUnavailableError, match="500"):
        group(service_cache)
    threads = threading.active_count()
    for _ in range(200):
        with pytest.raises(ConsulUnavailableError, match="500"):
            group(service_cache, same_node=True)
    assert threading.active_count() <= threads
    # More than one would have to be half a second apart.
    assert lookups(proxy) <= 3
    assert sum("Watching api failed, and no instance is known: " in message for message in caplog.messages) == 1
    proxy.restore()
    register(agent, 1001)
    wait_until(lambda: not service_cache.state.error, what="the watch to work again")
    assert ports(group(service_cache)) == [1001]


def test_group_unknown_token_is_a_permission_error(make_agent, registry_cache):
    guarded = make_agent(management_token="00000000-0000-4000-8000-000000000001")
    config = ConsulConfig(port=guarded.port, token="00000000-0000-4000-8000-00000000dead")
    with pytest.raises(ConsulPermissionError, match="doesn't know this token"):
        group(registry_cache(config).service_cache("api"))


def test_service_cache_started_during_an_outage_uses_the_list_on_disk(agent, registry_cache, tmp_path):
    register(agent, 1001, tags=("blue",), weight=7)
    before = registry_cache(agent.config, folder=tmp_path)
    group(before.service_cache("api"))
    wait_until(lambda: list(tmp_path.glob("*.json")), what="the file")
    agent.stop()
    service_cache = registry_cache(agent.config, folder=tmp_path).service_cache("api")
    (endpoint,) = group(service_cache, "blue").endpoints
    assert (endpoint.url, endpoint.weight, service_cache.state.source) == ("http://127.0.0.1:1001", 7, "file")
    agent.start()
    register(agent, 1002)
    wait_until(
        lambda: service_cache.state.source == "Consul" and 1002 in ports(group(service_cache)),
        what="the list of Consul",
    )


def test_watch_idle_service_ends_and_the_next_call_starts_another(agent, registry_cache, recording_proxy):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    shared = registry_cache(proxy.config, idle_s=0.3)
    first = group(shared.service_cache("api")).endpoints
    service_cache = shared.service_cache("api")
    wait_until(lambda: service_cache.cached_group(None, same_node=False) is None, what="the watch to end")
    before = lookups(proxy)
    register(agent, 1002)
    again = group(shared.service_cache("api"))
    assert ports(again) == [1001, 1002]
    assert first[0] in again.endpoints, "its latency and failures are kept"
    assert lookups(proxy) == before + 1


def test_registry_cache_discards_an_unknown_service_when_idle(agent, registry_cache):
    shared = registry_cache(agent.config, idle_s=0.1)
    with pytest.raises(NoSuchServiceError):
        group(shared.service_cache("missing"))
    wait_until(lambda: not shared.services, what="the cache to be discarded")


def connections(port: int) -> int:
    """Number of connections that are established to a port of this machine."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[2].endswith(f":{port:04X}") and fields[3] == "01" for fields in lines)


def test_watches_of_200_unknown_names_leave_the_agent_to_others_and_end_soon(make_agent, registry_cache, monkeypatch):
    monkeypatch.setattr(service_cache_module, "UNKNOWN_IDLE_S", 1.0)
    agent = make_agent(settings={"limits": {"http_max_conns_per_client": 200}})  # Consul's default
    register(agent, 1001)
    shared = registry_cache(agent.config)

    def call(name: str) -> None:
        with pytest.raises(NoSuchServiceError):
            group(shared.service_cache(name), timeout_s=20.0)

    with ThreadPoolExecutor(200) as pool:
        list(pool.map(call, [f"missing-{number}" for number in range(200)]))
    assert ports(group(shared.service_cache("api"))) == [1001]
    registering = 1
    assert registering < connections(agent.port) <= BLOCKING_SLOTS + SHORT_SLOTS + registering
    register(agent, 1002)  # over a connection of its own
    wait_until(lambda: ports(group(shared.service_cache("api"))) == [1001, 1002], what="the new instance")
    wait_until(lambda: shared.services == {"api"}, what="the end of the watches of unknown names")


def test_watch_without_a_place_to_wait_follows_changes(agent, registry_cache, monkeypatch):
    monkeypatch.setattr(watch_slots, "BLOCKING_SLOTS", 1)
    monkeypatch.setattr(service_watch, "POLL_S", 0.1)
    shared = registry_cache(agent.config)
    for name in ("api", "jobs"):
        register(agent, 1001, name=name)
        assert ports(group(shared.service_cache(name))) == [1001]
    for name in ("api", "jobs"):
        register(agent, 1002, name=name)
        wait_until(lambda: len(group(shared.service_cache(name)).endpoints) == 2, what="the new instance")  # noqa: B023


def test_registry_cache_without_references_is_collected(agent, registry_cache):
    shared = registry_cache(agent.config)
    register(agent, 1001)
    group(shared.service_cache("api"))
    reference = weakref.ref(shared)
    del shared
    gc.collect()
    assert reference() is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12: there are threads, that is the point
def test_registry_cache_in_a_forked_child_keeps_the_list_and_starts_its_own_watch(agent, registry_cache):
    register(agent, 1001)
    shared = registry_cache(agent.config)
    group(shared.service_cache("api"))
    shared.service_cache("api").outlier_detector.lock.acquire()  # as another thread may have at that moment
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            service_cache = shared.service_cache("api")
            (endpoint,) = group(service_cache).endpoints
            endpoint.start_attempt(0.0)
            os.write(writing, f"{ports(group(service_cache))}".encode())
            register(agent, 1002)
            deadline = time.monotonic() + 20
            while len(group(service_cache).endpoints) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            os.write(writing, f"{ports(group(service_cache))}".encode())
        finally:
            os._exit(0)
    shared.service_cache("api").outlier_detector.lock.release()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"[1001][1001, 1002]"
    os.waitpid(child, 0)


def test_service_cache_invalid_reply_keeps_the_instances(agent, registry_cache, recording_proxy):
    register(agent, 1001)
    proxy = recording_proxy(agent)
    service_cache = registry_cache(proxy.config).service_cache("api")
    assert ports(group(service_cache)) == [1001]
    proxy.inject_fault(LOOKUP, body=b"null")
    register(agent, 1002)
    wait_until(lambda: "invalid reply" in service_cache.state.error, what="the error")
    assert ports(group(service_cache)) == [1001]
