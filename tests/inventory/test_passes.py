"""A pass under supervision: what the watcher forbids, what it adds, and what happens when the database goes away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from django.utils import timezone

from registry_admin.errors import InvalidReplyError, StoreUnavailableError
from registry_admin.inventory import mirror, passes
from registry_admin.inventory.models import (
    ConsulContact,
    HealthTransition,
    Instance,
    ObservedInstance,
    Service,
    SyncRun,
    SyncStatus,
)
from registry_admin.reconcile.plan import PlanItem
from tests.parts import ConsulAgent, RecordingProxy

pytestmark = pytest.mark.django_db


@dataclass
class Watched:
    """A watcher that answers as a test wants."""

    holder: str = "test:1"
    halted: str = ""
    notes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    evict: Mapping[str, str] = field(default_factory=dict)
    leads: bool = True
    held_back: frozenset[str] = frozenset()
    why_not: str = ""
    transitions: list[tuple[str, str, str]] = field(default_factory=list)

    def evictions(self, *_: object) -> Mapping[str, str]:
        return self.evict

    def holds_back(self, item: PlanItem) -> bool:
        return item.id in self.held_back

    def note_transition(self, transition: HealthTransition) -> None:
        self.transitions.append((transition.consul_id, transition.before, transition.after))

    def confirm(self) -> bool:
        return self.leads

    def may_go_on(self) -> str:
        return self.why_not


@pytest.fixture
def recorder(own_agent: ConsulAgent, recording_proxy, use_consul) -> RecordingProxy:
    """The product reaches its agent through this, which notes and spoils."""
    proxy: RecordingProxy = recording_proxy(own_agent)
    use_consul(proxy)
    return proxy


def ids(agent: ConsulAgent) -> set[str]:
    return set(agent.request("GET", "/v1/agent/services"))


def ports(*numbers: int) -> set[str]:
    return {f"api-127.0.0.1-{number}" for number in numbers}


# -- supervision ------------------------------------------------------------------------------------------------------


def test_who_does_not_lead_by_the_database_s_word_begins_no_plan_that_removes(own_agent, declare, sync):
    declare("api", 8001, 8002)
    sync()
    Instance.objects.get(port=8002).delete()
    Instance.objects.create(service=Service.objects.get(), address="127.0.0.1", port=8003)
    outcome = sync(trigger="watch", supervision=Watched(leads=False))
    assert outcome.results == ()
    assert ids(own_agent) == ports(8001, 8002)
    assert sync(trigger="watch", supervision=Watched()).ok
    assert ids(own_agent) == ports(8001, 8003)
    assert SyncRun.objects.get(trigger="watch").holder == "test:1"


def test_what_is_evicted_stays_so_until_somebody_asks_for_it(own_agent, declare, sync, operator):
    service = declare("api", 8001, 8002)
    sync()
    watched = Watched(evict={"api-127.0.0.1-8001": "critical for 31 s"})
    assert list(sync(trigger="watch", supervision=watched).evicted) == ["api-127.0.0.1-8001"]
    assert watched.transitions == [("api-127.0.0.1-8001", "passing", "evicted")]
    for _ in range(2):
        outcome = sync(trigger="watch", supervision=Watched())
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


def test_what_failed_lately_is_held_back_and_the_others_are_not(own_agent, declare, sync):
    declare("api", 8001, 8002)
    assert sync(trigger="watch", supervision=Watched(held_back=frozenset(ports(8001)))).ok
    assert ids(own_agent) == ports(8002)
    assert Instance.objects.get(port=8001).sync_status == SyncStatus.MISSING


def test_a_watcher_that_is_deposed_meanwhile_tries_nothing_more(own_agent, declare, sync):
    declare("api", 8001)
    outcome = sync(trigger="watch", supervision=Watched(why_not="another watcher leads now"))
    assert [one.error for one in outcome.results] == ["not tried, because another watcher leads now"]
    assert ids(own_agent) == set()


def test_what_the_watcher_knows_beyond_status_reaches_the_pages_and_a_person_s_pass_keeps_it(
    own_agent, declare, sync, operator
):
    declare("api", 8001)
    sync()
    node = ObservedInstance.objects.get().node
    note = "flapping: 6 changes in 10 min"
    sync(
        trigger="watch",
        supervision=Watched(halted="5 of 5 turned critical", notes={(node, "api-127.0.0.1-8001"): note}),
    )
    sync()
    assert ObservedInstance.objects.get().note == note
    assert note in operator.get("/admin/inventory/observedinstance/").content.decode()
    assert "5 of 5 turned critical" in operator.get("/admin/inventory/service/").content.decode()
    sync(trigger="watch", supervision=Watched())
    assert ObservedInstance.objects.get().note == ""
    assert "Eviction is halted" not in operator.get("/admin/inventory/service/").content.decode()


# -- what can't be believed -------------------------------------------------------------------------------------------


def test_an_agent_that_suddenly_shows_nothing_is_not_believed_unless_the_catalog_agrees(
    own_agent, recorder, declare, sync
):
    declare("api", *range(8001, 8006))
    sync()
    recorder.spoil("^GET /v1/agent/services", body=b"{}")
    outcome = sync(trigger="watch", supervision=Watched())
    assert isinstance(outcome.error, InvalidReplyError)
    assert "the agent shows no instance at all, and had 5 at the last look" in str(outcome.error)
    assert ObservedInstance.objects.count() == 5
    assert set(Instance.objects.values_list("sync_status", flat=True)) == {"synced"}
    recorder.mend()
    for one in ids(own_agent):
        own_agent.request("PUT", f"/v1/agent/service/deregister/{one}")
    assert len(sync(trigger="watch", supervision=Watched()).results) == 5
    assert ids(own_agent) == ports(*range(8001, 8006))


# -- the database goes away -------------------------------------------------------------------------------------------


def test_when_the_database_goes_away_nothing_more_is_written_to_consul_and_the_run_says_how_far_it_came(
    recorder, declare, sync, monkeypatch
):
    declare("api", *range(8001, 8061))
    recorder.spoil("^PUT /v1/agent/service/register", delay_s=0.1)
    registered = recorder.registrations

    def away(*_args: object, **_options: object) -> None:
        if registered():
            raise StoreUnavailableError("The database can't be used: it is away.")

    monkeypatch.setattr(passes, "check_store", away)
    monkeypatch.setattr(mirror, "record_observation", away)
    outcome = sync(trigger="watch", supervision=Watched())
    assert isinstance(outcome.error, StoreUnavailableError)
    done = sum(one.ok for one in outcome.results)
    assert 0 < done < 60
    assert done == sum(registered().values())
    assert {one.error for one in outcome.failures} == {"not tried, because the database is away"}
    monkeypatch.undo()
    assert SyncRun.objects.get().outcome == "running"
    assert outcome.unfinished is not None
    outcome.unfinished()
    row = SyncRun.objects.get()
    assert (row.outcome, row.planned, row.registered) == ("interrupted", 60, done)
    assert row.message.startswith(f"{done} of 60 applied. ")


def test_with_the_database_away_from_the_start_consul_is_not_asked_to_change_anything(recorder, declare, monkeypatch):
    declare("api", 8001)

    def away(*_args: object, **_options: object) -> None:
        raise StoreUnavailableError("The database can't be used: it is away.")

    monkeypatch.setattr(passes.selectors, "read_inventory", away)
    with pytest.raises(StoreUnavailableError):
        passes.Pass(trigger="watch", supervision=Watched()).make()
    assert not recorder.registrations()


def test_a_run_s_page_tells_causes_and_how_each_item_ended(operator):
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
        assert all(words in text for words in expected), outcome
        assert ("failed</strong>" in text) is (outcome == "interrupted")
    listed = operator.get("/admin/inventory/syncrun/").content.decode()
    assert listed.count("1 registered, of 3 planned") == 3


def test_since_when_it_is_evicted_stands_beside_it(operator, declare):
    service = declare("api", 8001)
    ConsulContact.objects.create(reachable=True, seen_at=timezone.now())
    Instance.objects.update(evicted_at=timezone.now(), evicted_reason="critical", sync_status="evicted")
    text = operator.get(f"/admin/inventory/service/{service.pk}/live/").content.decode()
    assert f'evicted <time datetime="{timezone.now():%Y-%m-%d}' in text
