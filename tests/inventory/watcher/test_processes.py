"""The watcher as operators run it: real processes, a real agent, a real database, and what goes wrong with each."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import requests
from django.db import connection

from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec
from registry_admin.consul.marks import META_SELF
from registry_admin.inventory.models import (
    EvictionHalt,
    HealthTransition,
    Instance,
    Lease,
    ObservedInstance,
    SyncRun,
    SyncStatus,
)
from tests.parts import ConsulAgent, RecordingProxy, assert_holds, free_port, refusing_port, wait_until

pytestmark = [
    pytest.mark.system,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(os.environ.get("TEST_DATABASE") == "sqlite", reason="it looks into the processes' own database"),
]


@pytest.fixture(autouse=True)
def _only_the_watcher_syncs(settings) -> None:
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}


@pytest.fixture
def http_process() -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Returns `http_process(port)`: starts a process that answers HTTP at `port`."""
    with ExitStack() as stack:

        def start(port: int) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_until(lambda: answers(port), what="the service to answer")
            return process

        yield start


@pytest.fixture
def recorder(own_agent: ConsulAgent, recording_proxy, use_consul) -> RecordingProxy:
    """Proxy between the product and its agent; records requests and replaces replies."""
    proxy: RecordingProxy = recording_proxy(own_agent)
    use_consul(proxy)
    return proxy


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=2).ok
    except requests.ConnectionError:
        return False


def health(agent: ConsulAgent, instance_id: str) -> str:
    """Returns the instance's health in the catalog: passing, critical or other; empty if it isn't registered."""
    for entry in agent.request("GET", "/v1/health/service/api"):
        if entry["Service"]["ID"] == instance_id:
            statuses = {check["Status"] for check in entry["Checks"]}
            return "critical" if "critical" in statuses else "passing" if statuses == {"passing"} else "other"
    return ""


def ids(agent: ConsulAgent) -> set[str]:
    return set(agent.request("GET", "/v1/agent/services"))


def edit(agent: ConsulAgent, instance_id: str, **changes: object) -> None:
    """Registers the instance again at its agent with `changes`, as a person does by hand."""
    service = agent.request("GET", f"/v1/agent/service/{instance_id}")
    body = {
        "ID": service["ID"], "Name": service["Service"], "Address": service["Address"], "Port": service["Port"],
        "Tags": service["Tags"], "Meta": service["Meta"],
    }  # fmt: skip
    agent.request("PUT", "/v1/agent/service/register", body=body | changes)


def latest_item(instance_id: str) -> dict[str, object]:
    """Returns the newest item of the sync history for the instance, or an empty one."""
    for run in SyncRun.objects.all():
        for item in run.items:
            if item["id"] == instance_id:
                return dict(item)
    return {}


# -- eviction and return ----------------------------------------------------------------------------------------------


def test_killed_service_is_evicted_after_30_s_and_restored_when_it_answers(
    own_agent: ConsulAgent, declare, watch, http_process
):
    port = free_port()
    process = http_process(port)
    declare("api", port, check_kind="http", check_path="/", check_interval="2s", check_timeout="1s")
    instance_id = f"api-127.0.0.1-{port}"
    watch()
    wait_until(lambda: health(own_agent, instance_id) == "passing", 30, "it to pass")
    process.kill()
    process.wait()
    wait_until(lambda: health(own_agent, instance_id) == "critical", 10, "it to turn critical")
    critical_at = time.monotonic()
    wait_until(lambda: health(own_agent, instance_id) == "", 40, "it to be evicted")
    # The only duration that is asserted, because the product promises it. Consul alone takes 90 s.
    assert 29.5 <= time.monotonic() - critical_at <= 33
    row = wait_until(lambda: Instance.objects.filter(sync_status=SyncStatus.EVICTED).first(), what="the status")
    assert "critical" in row.sync_reason
    assert latest_item(instance_id)["action"] == "evict"
    assert HealthTransition.objects.filter(consul_id=instance_id, after="evicted").count() == 1
    http_process(port)
    wait_until(lambda: health(own_agent, instance_id) == "passing", 2 * 2 + 1, "it to be back within two intervals")
    wait_until(lambda: Instance.objects.get().sync_status == SyncStatus.SYNCED, what="it to be in sync")
    assert Instance.objects.get().evicted_at is None
    assert latest_item(instance_id)["cause"] == "answers again"


def test_critical_time_survives_watcher_restart(own_agent: ConsulAgent, declare, watch):
    port = refusing_port()
    declare("api", port, check_kind="tcp", check_interval="1s", check_timeout="1s", deregister_after="12s")
    first = watch()
    wait_until(lambda: HealthTransition.objects.filter(after="critical").exists(), 20, "it to be seen critical")
    since = HealthTransition.objects.filter(after="critical").latest("at").at
    time.sleep(4)  # a third of its time, which a restarted count would add
    assert first.stop() == 0
    watch()
    evicted = wait_until(lambda: HealthTransition.objects.filter(after="evicted").first(), 30, "it to be evicted")
    assert 12 <= (evicted.at - since).total_seconds() < 15.9  # a restarted count would give at least 16


def test_undeclared_self_registered_instance_is_evicted(own_agent: ConsulAgent, registry, watch):
    from registry_admin.consul import ConsulApi

    api = ConsulApi(own_agent.config)
    check = CheckSpec(kind=CheckKind.TCP, interval="1s", timeout="1s", deregister_after="3s")
    spec = ServiceSpec(name="api", address="127.0.0.1", port=refusing_port(), check=check)
    api.register(spec, marks={META_SELF: spec.digest})
    watch()
    wait_until(lambda: spec.id not in ids(own_agent), 30, "it to be evicted")
    api.register(spec, marks={META_SELF: spec.digest})
    wait_until(lambda: spec.id in ids(own_agent), what="it to be back at once")
    api.close()


def test_foreign_maintenance_and_permanent_instances_are_not_evicted(own_agent: ConsulAgent, declare, watch):
    ports = [refusing_port() for _ in range(3)]
    tcp = {"check_kind": "tcp", "check_interval": "1s", "check_timeout": "1s"}
    declare("api", ports[0], **tcp, deregister_after="2s")
    declare("kept", ports[1], **tcp, deregister_after="")
    declare("mended", ports[2], **tcp, deregister_after="2s")
    check = {"TCP": f"127.0.0.1:{refusing_port()}", "Interval": "1s", "Timeout": "1s"}
    own_agent.request("PUT", "/v1/agent/service/register", body={"Name": "theirs", "Check": check})
    watch()
    wait_until(lambda: f"mended-127.0.0.1-{ports[2]}" in ids(own_agent), 20, "all to be registered")
    own_agent.request("PUT", f"/v1/agent/service/maintenance/mended-127.0.0.1-{ports[2]}?enable=true")
    wait_until(lambda: f"api-127.0.0.1-{ports[0]}" not in ids(own_agent), 30, "the eviction of api")
    remaining = {"theirs", f"kept-127.0.0.1-{ports[1]}", f"mended-127.0.0.1-{ports[2]}"}
    assert_holds(lambda: ids(own_agent) == remaining, 4, "the instances that must not be evicted")


def test_outage_of_all_instances_halts_eviction(own_agent: ConsulAgent, declare, watch, operator):
    declare("api", *(refusing_port() for _ in range(5)), check_kind="tcp", check_interval="1s", deregister_after="3s")
    watcher = watch()
    wait_until(lambda: "eviction_halted" in watcher.log, 30, "eviction to stop")
    assert_holds(lambda: len(ids(own_agent)) == 5, 3, "all that is critical together")
    assert "Eviction is halted" in operator.get("/admin/inventory/service/").content.decode()


def test_instances_that_wait_for_their_check_after_an_outage_are_not_evicted(own_agent: ConsulAgent, declare, watch):
    quick, slow = [free_port() for _ in range(4)], [free_port() for _ in range(3)]
    tcp = {"check_kind": "tcp", "check_timeout": "1s", "deregister_after": "3s"}
    declare("quick", *quick, **tcp, check_interval="1s")
    declare("slow", *slow, **tcp, check_interval="15s")
    watcher = watch()
    wait_until(lambda: ObservedInstance.objects.filter(health="critical").count() == 7, 40, "all checks to have failed")
    wait_until(lambda: "eviction_halted" in watcher.log, 20, "the halt")
    with ExitStack() as stack:
        for port in (*quick, *slow):
            stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=128))
        wait_until(lambda: ObservedInstance.objects.filter(health="passing").count() >= 4, 20, "the quick ones to pass")
        wait_until(lambda: ObservedInstance.objects.filter(health="passing").count() == 7, 30, "all to pass")
        assert not HealthTransition.objects.filter(after="evicted").exists()
    assert EvictionHalt.objects.filter(ended_at=None, kind="node").exists()  # for a minute


# -- manual changes in Consul ------------------------------------------------------------------------------------------


def test_manual_change_is_repaired_within_a_second_and_recorded(own_agent: ConsulAgent, declare, watch):
    declare("api", 8001, tags=["blue"])
    watch()
    wait_until(lambda: ids(own_agent), 20, "the instance")
    wait_until(lambda: Instance.objects.get().sync_status == SyncStatus.SYNCED, what="it to be in sync")
    took = []
    for number in range(20):
        start = time.monotonic()
        if number % 2:
            own_agent.request("PUT", "/v1/agent/service/deregister/api-127.0.0.1-8001")
        else:
            edit(own_agent, "api-127.0.0.1-8001", Port=9999, Tags=["red"])
        wait_until(lambda: is_right(own_agent), 20, "it to be put right")
        took.append(time.monotonic() - start)
        cause = "removed by hand" if number % 2 else "edited by hand"
        item = wait_until(lambda cause=cause: is_latest(cause), what=f"the history to say {cause}")
        if number % 2 == 0:
            assert {(change["field"], str(change["before"])) for change in item["changes"]} == {
                ("port", "9999"), ("tags", "['red']")
            }  # fmt: skip
    assert statistics.median(took) < 1


def is_right(agent: ConsulAgent) -> bool:
    service = agent.request("GET", "/v1/agent/services").get("api-127.0.0.1-8001")
    return service is not None and (service["Port"], service["Tags"]) == (8001, ["blue"])


def is_latest(cause: str) -> dict[str, object] | None:
    item = latest_item("api-127.0.0.1-8001")
    return item if item.get("cause") == cause else None


def test_agent_restarted_empty_is_refilled_and_cause_recorded(own_agent: ConsulAgent, declare, watch):
    declare("api", *range(8001, 8101))
    watch()
    wait_until(lambda: len(ids(own_agent)) == 100, 30, "all in Consul")
    wait_until(lambda: not SyncRun.objects.filter(outcome="running").exists(), what="the run to be finished")
    own_agent.stop()
    own_agent.start()
    wait_until(lambda: len(ids(own_agent)) == 100, 30, "all back in Consul")
    item = wait_until(lambda: is_latest("agent lost its state"), what="the history")
    assert item["action"] == "register"


def test_change_by_sql_wakes_watcher(own_agent: ConsulAgent, declare, watch):
    declare("api", 8001, 8002)
    watch()
    wait_until(lambda: len(ids(own_agent)) == 2, 20, "both instances")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE inventory_instance SET enabled = false WHERE port = 8001")
    wait_until(lambda: ids(own_agent) == {"api-127.0.0.1-8002"}, 5, "one to be taken out")


# -- several watchers -------------------------------------------------------------------------------------------------


def test_leader_killed_during_apply_is_replaced_and_items_are_applied_once(
    own_agent: ConsulAgent, recorder: RecordingProxy, declare, watch
):
    recorder.inject_fault("^PUT /v1/agent/service/register", delay_s=0.5)
    standby = watch()
    for round_number in range(10):
        leader = standby
        wait_until(lambda leader=leader: "INFO leading" in leader.log, 10, "it to lead")
        standby = watch()
        before = sum(recorder.registrations().values())
        declare(f"service-{round_number}", *range(8001, 8041))
        wait_until(lambda before=before: sum(recorder.registrations().values()) > before, 20, "it to be in the middle")
        leader.process.kill()
        leader.process.wait()
        killed = time.monotonic()
        wait_until(lambda standby=standby: "INFO leading" in standby.log, 20, "the other to take over")
        assert time.monotonic() - killed <= 10
        expected = 40 * (round_number + 1)
        wait_until(lambda expected=expected: len(ids(own_agent)) == expected, 30, "it to be completed")
        wait_until(lambda: not SyncRun.objects.filter(outcome="running").exists(), 10, "no run to be left open")
    assert SyncRun.objects.filter(outcome="abandoned").count() == 10
    twice = {key: count for key, count in recorder.registrations().items() if count > 1}
    assert twice == {}


def test_leader_stop_hands_over_and_page_shows_leader(own_agent: ConsulAgent, watch, operator):
    first = watch()
    wait_until(lambda: "INFO leading" in first.log, what="it to lead")
    second = watch()
    wait_until(lambda: "INFO standing by" in second.log, what="the other to stand by")
    holder = Lease.objects.get().holder
    assert f":{first.process.pid}:" in holder
    page = operator.get("/admin/inventory/service/").content.decode()
    assert holder in page
    assert "leads since" in page
    assert first.stop() == 0
    wait_until(lambda: "INFO leading" in second.log, 3, "the other to take over")
    assert f":{second.process.pid}:" in Lease.objects.get().holder


# -- when Consul or the database misbehaves ---------------------------------------------------------------------------


def test_failed_item_is_retried_without_delaying_other_items(
    own_agent: ConsulAgent, recorder: RecordingProxy, declare, watch
):
    recorder.inject_fault("^PUT /v1/agent/service/register", containing='"api-127.0.0.1-8002"', status=500)
    declare("api", 8001, 8002, 8003)
    watch()
    wait_until(lambda: len(ids(own_agent)) == 2, 20, "the two that can be registered")
    tried = len(recorder.exchanges_matching("^PUT /v1/agent/service/register"))
    assert "api-127.0.0.1-8002" not in ids(own_agent)
    for number in range(5):  # whatever else happens doesn't make it be tried any oftener
        declare(f"other-{number}", 9001 + number)
        wait_until(lambda number=number: f"other-{number}-127.0.0.1-{9001 + number}" in ids(own_agent), 20, "another")
    failed = [
        exchange
        for exchange in recorder.exchanges_matching("^PUT /v1/agent/service/register")
        if exchange.status == 500
    ]
    assert len(failed) < tried + 5
    recorder.restore()
    wait_until(lambda: "api-127.0.0.1-8002" in ids(own_agent), 60, "the failed instance")


@pytest.mark.parametrize(
    "answer",
    [{"status": 500}, {"status": 429}, {"body": b"<html>"}, {"body": b"null"}, {"body": b"{}"}],
    ids=["500", "429", "garbage", "null", "empty"],
)
def test_invalid_reply_removes_no_instance_and_keeps_statuses(
    own_agent: ConsulAgent, recorder: RecordingProxy, declare, sync, answer
):
    declare("api", *range(8001, 8006))
    assert sync().ok
    declared_away = Instance.objects.get(port=8001)
    Instance.objects.filter(pk=declared_away.pk).delete()
    recorder.forget()
    recorder.inject_fault("^GET /v1/agent/services", **answer)
    sync()
    assert len(ids(own_agent)) == 5
    assert not recorder.deregistrations()
    assert Instance.objects.exclude(sync_status=SyncStatus.SYNCED).count() == 0


def test_frozen_consul_is_reported_until_it_answers(own_agent: ConsulAgent, declare, watch):
    from registry_admin.inventory.selectors import freshness

    declare("api", 8001)
    watcher = watch()
    wait_until(lambda: ids(own_agent), 20, "the instance")
    wait_until(lambda: freshness().is_current, 10, "Consul to have been seen")
    own_agent.freeze()
    wait_until(lambda: not freshness().is_current, 30, "people to see that it is away")
    assert "didn't answer in time" in freshness().problem
    own_agent.thaw()
    wait_until(lambda: freshness().is_current, 40, "people to see that it is back")
    assert watcher.stop() == 0
