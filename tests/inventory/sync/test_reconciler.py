"""Syncs under the watcher's hooks: vetoes, notes, and loss of the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from django.utils import timezone

from registry_admin.errors import DatabaseUnavailableError, InvalidReplyError
from registry_admin.inventory.models import (
    ConsulContact,
    HealthTransition,
    Instance,
    ObservedInstance,
    Service,
    SyncRun,
    SyncStatus,
)
from registry_admin.inventory.sync import mirror, reconciler
from registry_admin.reconcile.plan import PlanItem
from tests.parts import ConsulAgent, RecordingProxy

pytestmark = pytest.mark.django_db


@dataclass
class StubHooks:
    """Hooks of a watcher with fixed answers."""

    holder: str = "test:1"
    halted: str = ""
    notes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    evict: Mapping[str, str] = field(default_factory=dict)
    leads: bool = True
    deferred: frozenset[str] = frozenset()
    reason_to_stop: str = ""
    transitions: list[tuple[str, str, str]] = field(default_factory=list)

    def evictions(self, *_: object) -> Mapping[str, str]:
        return self.evict

    def is_deferred(self, item: PlanItem) -> bool:
        return item.id in self.deferred

    def on_transition(self, transition: HealthTransition) -> None:
        self.transitions.append((transition.consul_id, transition.before, transition.after))

    def confirm_leadership(self) -> bool:
        return self.leads

    def stop_reason(self) -> str:
        return self.reason_to_stop


@pytest.fixture
def recorder(own_agent: ConsulAgent, recording_proxy, use_consul) -> RecordingProxy:
    """Proxy between the product and its agent that records requests and injects faults."""
    proxy: RecordingProxy = recording_proxy(own_agent)
    use_consul(proxy)
    return proxy


def ids(agent: ConsulAgent) -> set[str]:
    return set(agent.request("GET", "/v1/agent/services"))


def ports(*numbers: int) -> set[str]:
    return {f"api-127.0.0.1-{number}" for number in numbers}


# -- hooks ------------------------------------------------------------------------------------------------------------


def test_watcher_without_confirmed_leadership_applies_no_plan_with_removals(own_agent, declare, sync):
    declare("api", 8001, 8002)
    sync()
    Instance.objects.get(port=8002).delete()
    Instance.objects.create(service=Service.objects.get(), address="127.0.0.1", port=8003)
    outcome = sync(trigger="watch", hooks=StubHooks(leads=False))
    assert outcome.results == ()
    assert ids(own_agent) == ports(8001, 8002)
    assert sync(trigger="watch", hooks=StubHooks()).ok
    assert ids(own_agent) == ports(8001, 8003)
    assert SyncRun.objects.get(trigger="watch").holder == "test:1"


def test_evicted_instance_stays_out_until_synced_by_a_person(own_agent, declare, sync, operator):
    service = declare("api", 8001, 8002)
    sync()
    hooks = StubHooks(evict={"api-127.0.0.1-8001": "critical for 31 s"})
    assert list(sync(trigger="watch", hooks=hooks).evicted) == ["api-127.0.0.1-8001"]
    assert hooks.transitions == [("api-127.0.0.1-8001", "passing", "evicted")]
    for _ in range(2):
        outcome = sync(trigger="watch", hooks=StubHooks())
        assert (outcome.results, list(outcome.evicted)) == ((), ["api-127.0.0.1-8001"])
    row = Instance.objects.get(port=8001)
    assert (row.sync_status, row.evicted_reason) == (SyncStatus.EVICTED, "critical for 31 s")
    assert ids(own_agent) == ports(8002)
    operator.post(
        "/admin/inventory/service/", {"action": "sync_now", "_selected_action": [service.pk], "confirmed": "yes"}
    )
    assert ids(own_agent) == ports(8001, 8002)
    row.refresh_from_db()
    assert (row.sync_status, row.evicted_at) == (SyncStatus.SYNCED, None)


def test_deferred_item_is_skipped_and_others_are_applied(own_agent, declare, sync):
    declare("api", 8001, 8002)
    assert sync(trigger="watch", hooks=StubHooks(deferred=frozenset(ports(8001)))).ok
    assert ids(own_agent) == ports(8002)
    assert Instance.objects.get(port=8001).sync_status == SyncStatus.MISSING


def test_watcher_that_lost_the_lease_applies_no_further_items(own_agent, declare, sync):
    declare("api", 8001)
    outcome = sync(trigger="watch", hooks=StubHooks(reason_to_stop="another watcher leads now"))
    assert [result.error for result in outcome.results] == ["not tried, because another watcher leads now"]
    assert ids(own_agent) == set()


def test_watcher_notes_are_shown_and_kept_by_manual_syncs(own_agent, declare, sync, operator):
    declare("api", 8001)
    sync()
    node = ObservedInstance.objects.get().node
    note = "flapping: 6 changes in 10 min"
    sync(
        trigger="watch",
        hooks=StubHooks(halted="5 of 5 turned critical", notes={(node, "api-127.0.0.1-8001"): note}),
    )
    sync()
    assert ObservedInstance.objects.get().note == note
    assert note in operator.get("/admin/inventory/observedinstance/").content.decode()
    assert "5 of 5 turned critical" in operator.get("/admin/inventory/service/").content.decode()
    sync(trigger="watch", hooks=StubHooks())
    assert ObservedInstance.objects.get().note == ""
    assert "Eviction is halted" not in operator.get("/admin/inventory/service/").content.decode()


# -- implausible replies ----------------------------------------------------------------------------------------------


def test_empty_agent_reply_is_rejected_unless_the_catalog_agrees(own_agent, recorder, declare, sync):
    declare("api", *range(8001, 8006))
    sync()
    recorder.inject_fault("^GET /v1/agent/services", body=b"{}")
    outcome = sync(trigger="watch", hooks=StubHooks())
    assert isinstance(outcome.error, InvalidReplyError)
    assert "the agent shows no instance at all, and had 5 at the last look" in str(outcome.error)
    assert ObservedInstance.objects.count() == 5
    assert set(Instance.objects.values_list("sync_status", flat=True)) == {"synced"}
    recorder.restore()
    for instance_id in ids(own_agent):
        own_agent.request("PUT", f"/v1/agent/service/deregister/{instance_id}")
    assert len(sync(trigger="watch", hooks=StubHooks()).results) == 5
    assert ids(own_agent) == ports(*range(8001, 8006))


# -- loss of the database ---------------------------------------------------------------------------------------------


def test_database_lost_during_sync_stops_writes_and_the_run_records_progress(recorder, declare, sync, monkeypatch):
    declare("api", *range(8001, 8061))
    recorder.inject_fault("^PUT /v1/agent/service/register", delay_s=0.1)
    registered = recorder.registrations

    def away(*_args: object, **_options: object) -> None:
        if registered():
            raise DatabaseUnavailableError("The database can't be used: it is away.")

    monkeypatch.setattr(reconciler, "check_database", away)
    monkeypatch.setattr(mirror, "record_snapshot", away)
    outcome = sync(trigger="watch", hooks=StubHooks())
    assert isinstance(outcome.error, DatabaseUnavailableError)
    done = sum(result.ok for result in outcome.results)
    assert 0 < done < 60
    assert done == sum(registered().values())
    assert {result.error for result in outcome.failures} == {"not tried, because the database is away"}
    monkeypatch.undo()
    assert SyncRun.objects.get().outcome == "running"
    assert outcome.finish_run is not None
    outcome.finish_run()
    row = SyncRun.objects.get()
    assert (row.outcome, row.planned, row.registered) == ("interrupted", 60, done)
    assert row.message.startswith(f"{done} of 60 applied. ")


def test_database_away_from_the_start_leaves_consul_unchanged(recorder, declare, monkeypatch):
    declare("api", 8001)

    def away(*_args: object, **_options: object) -> None:
        raise DatabaseUnavailableError("The database can't be used: it is away.")

    monkeypatch.setattr(reconciler.selectors, "read_inventory", away)
    with pytest.raises(DatabaseUnavailableError):
        reconciler.Reconciler(trigger="watch", hooks=StubHooks()).run()
    assert not recorder.registrations()


def test_run_page_shows_cause_and_result_of_each_item(operator):
    item = {"id": "api-1", "action": "register", "reason": "not in Consul yet", "cause": "agent lost its state",
            "changes": []}  # fmt: skip
    ended = [
        item | {"ok": True, "error": ""},
        item | {"ok": False, "error": "not tried, because the database is away"},
        item | {"ok": False, "error": "Consul answered 500"},
    ]
    for outcome, items, expected in (
        ("interrupted", ended, ["done", "not tried, because the database is away", "failed</strong>: Consul"]),
        ("running", [item], ["under way"]),
        ("abandoned", [item], ["not known"]),
    ):
        run = SyncRun.objects.create(trigger="watch", outcome=outcome, planned=3, registered=1, items=items)
        text = operator.get(f"/admin/inventory/syncrun/{run.pk}/change/").content.decode()
        assert "agent lost its state" in text
        assert all(text_part in text for text_part in expected), outcome
        assert ("failed</strong>" in text) is (outcome == "interrupted")
    listed = operator.get("/admin/inventory/syncrun/").content.decode()
    assert listed.count("1 registered, of 3 planned") == 3


def test_service_page_shows_time_of_eviction(operator, declare):
    declare("api", 8001)
    ConsulContact.objects.create(reachable=True, seen_at=timezone.now())
    Instance.objects.update(evicted_at=timezone.now(), evicted_reason="critical", sync_status="evicted")
    text = operator.get("/services/api/").content.decode()
    assert f'evicted <time datetime="{timezone.now():%Y-%m-%d}' in text
