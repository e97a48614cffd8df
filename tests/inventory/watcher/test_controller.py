"""The watcher's controller: history is pruned, remarks are written, the lease is released, and events are logged."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.consul import Health
from registry_admin.inventory.models import HealthTransition, Instance, Lease, ObservedInstance, SyncRun
from registry_admin.inventory.watcher.controller import Controller
from tests.parts import refusing_port, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_leader_deletes_history_older_than_the_setting(lead, declare, settings):
    settings.REGISTRY = {"HISTORY_KEPT": "2h", "SYNC_ON_SAVE": "0"}
    old, recent = timezone.now() - timedelta(hours=3), timezone.now() - timedelta(hours=1)
    for at in (old, recent):
        SyncRun.objects.create(trigger="watch", outcome="done", started_at=at)
        HealthTransition.objects.create(at=at, consul_id="x", service_name="x", after="passing")
    lead()
    wait_until(lambda: not SyncRun.objects.filter(started_at__lte=old).exists(), 20, "old runs to be gone")
    wait_until(lambda: not HealthTransition.objects.filter(at__lte=old).exists(), 5, "old changes to be gone")
    assert SyncRun.objects.filter(started_at=recent).exists()
    assert HealthTransition.objects.filter(at=recent).exists()


def test_leader_notes_flapping_and_eviction_fight_on_instance(lead, declare, settings, own_agent):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    port = refusing_port()
    declare("api", port, check_kind="tcp", check_interval="1s", check_timeout="1s", deregister_after="2s")
    declare("web", 8001)
    node = own_agent.request("GET", "/v1/agent/self")["Config"]["NodeName"]
    now = timezone.now()
    for number in range(6):
        swing = [Health.PASSING, Health.CRITICAL] if number % 2 else [Health.CRITICAL, Health.PASSING]
        HealthTransition.objects.create(
            at=now, node=node, consul_id="web-127.0.0.1-8001", service_name="web", before=swing[0], after=swing[1]
        )
    for _ in range(4):
        HealthTransition.objects.create(
            at=now, node=node, consul_id=f"api-127.0.0.1-{port}", service_name="api", before="critical", after="evicted"
        )
    lead()

    def note(service: str) -> str:
        row = ObservedInstance.objects.filter(service_name=service).first()
        return row.note if row else ""

    wait_until(lambda: note("web") == "flapping: 6 changes in 10 min", 20, "the flapping to be named")
    wait_until(lambda: note("api").startswith("reap fight: evicted 4 times in the last hour"), 20, "the fight")
    assert Instance.objects.get(service__name="api").evicted_at is None, "repeated evictions extend the wait past 2 s"


def test_controller_stop_releases_lease(own_agent, transactional_db):
    controller = Controller()
    thread = threading.Thread(target=controller.run)
    thread.start()
    try:
        wait_until(lambda: Lease.objects.exclude(holder="").exists(), 20, "it to lead")
    finally:
        controller.stop()
        thread.join(30)
    assert not Lease.objects.filter(expires_at__gt=timezone.now()).exclude(holder="").exists()


# -- the log of a process ---------------------------------------------------------------------------------------------


def test_json_log_has_one_object_with_facts_per_line(own_agent, manage, watch):
    manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    watcher = watch(LOG_FORMAT="json")
    wait_until(lambda: '"register"' in watcher.log, 20, "the registration")
    own_agent.request("PUT", "/v1/agent/service/deregister/api-127.0.0.1-8001")
    wait_until(lambda: "removed by hand" in watcher.log, 20, "the repair")
    assert watcher.stop() == 0
    lines = [json.loads(line) for line in watcher.log.splitlines()]
    assert all({"time", "level", "logger", "message", "event"} <= line.keys() for line in lines)
    assert [line["event"] for line in lines if line["event"] in ("started", "leading", "stopped")] == [
        "started", "leading", "stopped",
    ]  # fmt: skip
    first, second = (line for line in lines if line["event"] == "register")
    assert (first["instance"], first["cause"]) == ("api-127.0.0.1-8001", "never registered")
    assert (second["service"], second["cause"]) == ("api", "removed by hand")
    assert isinstance(second["seconds"], float)


def test_unknown_log_format_is_an_error_at_start(manage):
    result = manage("sync_registry", LOG_FORMAT="nonsense")
    assert result.code == 1
    assert result.out == ""
    assert "LOG_FORMAT: give 'line' or 'json', not 'nonsense'" in result.err
