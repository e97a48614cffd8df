"""The journal of halts: what outlives a change of leader, the alarm, and the confirmation by a person."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.inventory.actor import acting_as
from registry_admin.inventory.models import EvictionHalt
from registry_admin.inventory.sync.halts import confirm_halts
from registry_admin.inventory.watcher.halt_journal import HaltJournal
from registry_admin.reconcile.eviction import EvictionDecision, EvictionState, WatchedInstance, decide_evictions
from registry_admin.reconcile.outage import Group, GroupKind

pytestmark = pytest.mark.django_db

API = Group(GroupKind.SERVICE, "api")


def instances(*, down: int, total: int = 3) -> list[WatchedInstance]:
    return [
        WatchedInstance(place=("n", f"api-{n}"), service="api", groups=(API,), is_critical=n < down, evict_after_s=30.0)
        for n in range(total)
    ]


def after(rounds: int, *, down: int, state: EvictionState | None = None) -> tuple[EvictionState, EvictionDecision]:
    """Writes the state of so many rounds of 15 s into the journal, as a leader does; returns it and the decision."""
    state = state or EvictionState()
    journal, now = HaltJournal(), timezone.now()
    decision = EvictionDecision()
    for _ in range(rounds):
        journal.read(now)
        state = state.next(instances(down=down), elapsed_s=15)
        decision = decide_evictions(state, instances(down=down))
        journal.write(state, instances(down=down), now)
    return state, decision


def open_journal() -> HaltJournal:
    journal = HaltJournal()
    journal.read(timezone.now())
    return journal


def test_halt_is_one_row_with_the_instances_that_are_down():
    after(4, down=3)
    halt = EvictionHalt.objects.get()
    assert (halt.kind, halt.name, halt.total, halt.ended_at) == ("service", "api", 3, None)
    assert halt.instances == [["n", "api-0"], ["n", "api-1"], ["n", "api-2"]]


def test_halt_is_continued_by_the_next_leader():
    after(2, down=3)
    assert open_journal().halts.keys() == {API}
    state, decision = after(4, down=1, state=EvictionState(halts=open_journal().halts))
    assert (state.halts.keys(), decision.evict) == ({API}, {})


def test_halt_that_is_over_has_an_end():
    state, _ = after(2, down=3)
    after(6, down=0, state=state)
    assert EvictionHalt.objects.get().ended_at is not None
    assert open_journal().halts == {}


def test_halt_of_half_an_hour_is_an_alarm_with_names():
    _, decision = after(4, down=3)
    assert open_journal().alarm(decision, timezone.now()) == ""
    EvictionHalt.objects.update(began_at=timezone.now() - timedelta(minutes=31))
    alarm = open_journal().alarm(decision, timezone.now())
    assert "api-0, api-1, api-2" in alarm
    assert "confirm" in alarm


def test_old_halts_are_deleted(settings):
    old = timezone.now() - timedelta(days=31)
    EvictionHalt.objects.create(kind="service", name="old", began_at=old, ended_at=old)
    after(1, down=3)
    assert EvictionHalt.objects.get().name == "api"


def test_confirmed_halt_stays_as_it_is_until_its_instances_pass():
    state, _ = after(4, down=3)
    with acting_as("ada", "admin"):
        assert confirm_halts(EvictionHalt.objects.all()) == 1
    assert open_journal().confirmed == {("n", "api-0"), ("n", "api-1"), ("n", "api-2")}
    state = EvictionState(clocks=state.clocks, halts=state.halts, confirmed=open_journal().confirmed)
    state, decision = after(3, down=3, state=state)
    assert len(decision.evict) == 3
    state, _ = after(6, down=3, state=state)
    assert EvictionHalt.objects.get().ended_at is None
    assert EvictionHalt.objects.get().confirmed_by == "ada"
    state, _ = after(1, down=0, state=state)
    assert EvictionHalt.objects.get().ended_at is not None


def test_halt_that_is_over_can_not_be_confirmed():
    EvictionHalt.objects.create(kind="service", name="api", ended_at=timezone.now())
    assert confirm_halts(EvictionHalt.objects.all()) == 0


def test_operator_who_may_prune_confirms_a_halt_after_a_look(make_user, client_of):
    halt = EvictionHalt.objects.create(kind="service", name="api", instances=[["n", "api-0"]], total=2)
    url = "/admin/inventory/evictionhalt/"
    post = {"action": "confirm", "_selected_action": [halt.pk]}
    viewer = client_of(make_user("view_evictionhalt", name="eve"))
    assert "evict them" not in viewer.get(url).content.decode()
    viewer.post(url, post | {"confirmed": "yes"})
    assert EvictionHalt.objects.get().confirmed_at is None
    pruner = client_of(make_user("view_evictionhalt", "prune_service", name="ada"))
    assert "api-0" in pruner.post(url, post).content.decode()
    assert EvictionHalt.objects.get().confirmed_at is None
    pruner.post(url, post | {"confirmed": "yes"})
    assert EvictionHalt.objects.get().confirmed_by == "ada"
