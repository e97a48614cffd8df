"""Records of runs: written before items are applied, completed after a crash, and pruned by age."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from registry_admin.callgraph.models import CallCount
from registry_admin.errors import ConsulUnavailableError, DatabaseUnavailableError, UnsafePlanError
from registry_admin.inventory.models import ConsulContact, HealthTransition, ObservationGap, SyncRun
from registry_admin.inventory.sync import runs
from registry_admin.inventory.sync.runs import RunRecorder
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.plan import Action, Cause, FieldChange, PlanItem, SyncStatus

pytestmark = pytest.mark.django_db

WATCH = SyncRun.Trigger.WATCH


def item(number: int = 1, action: Action = Action.REGISTER, **fields: Any) -> PlanItem:
    return PlanItem(
        **{
            "action": action, "service": "api", "id": f"api-{number}", "reason": "not in Consul yet",
            "status": SyncStatus.MISSING, "cause": Cause.NEVER_REGISTERED,
        } | fields
    )  # fmt: skip


def done(*items: PlanItem, error: str = "") -> list[ItemResult]:
    return [ItemResult(item=item, error=error) for item in items]


def test_run_is_recorded_before_items_are_applied():
    run = RunRecorder(trigger=WATCH, actor="ada", only={"web", "api"}, holder="host:1:ab")
    run.begin([item(1), item(2)])
    row = SyncRun.objects.get()
    assert (row.outcome, row.planned, row.actor, row.holder, row.scope) == (
        "running",
        2,
        "ada",
        "host:1:ab",
        ["api", "web"],
    )
    assert [entry["id"] for entry in row.items] == ["api-1", "api-2"]


def test_successful_run_records_actions_and_causes():
    changed = item(2, Action.UPDATE, cause=Cause.EDITED, changes=(FieldChange(field="port", before=1, after=2),))
    items = [item(1), changed, item(3, Action.DEREGISTER), item(4, Action.EVICT)]
    run = RunRecorder(trigger=WATCH)
    run.begin(items)
    row = run.finish(done(*items))
    assert row == SyncRun.objects.get()
    row.refresh_from_db()
    assert (row.outcome, row.registered, row.updated, row.deregistered, row.evicted, row.failed) == (
        "done",
        1,
        1,
        1,
        1,
        0,
    )
    assert [(entry["cause"], entry["ok"]) for entry in row.items][:2] == [
        ("never registered", True),
        ("edited by hand", True),
    ]
    assert row.items[1]["changes"] == [{"field": "port", "before": 1, "after": 2}]
    assert row.seconds > 0


@pytest.mark.parametrize(
    ("results", "error", "outcome"),
    [
        ([*done(item(1)), *done(item(2), error="no")], None, "partial"),
        (done(item(1)), UnsafePlanError("too much"), "refused"),
        ([], ConsulUnavailableError("away"), "failed"),
        (done(item(1)), DatabaseUnavailableError("gone"), "interrupted"),
    ],
)
def test_finished_run_records_its_outcome(results, error, outcome):
    row = RunRecorder(trigger=SyncRun.Trigger.COMMAND).finish(results, error=error)
    assert (row.outcome, str(error or "") in row.message) == (outcome, True)


def test_run_interrupted_by_the_database_records_its_progress():
    items = [item(number) for number in range(20)]
    run = RunRecorder(trigger=WATCH)
    run.begin(items)
    row = run.finish(
        [*done(*items[:7]), *done(*items[7:], error="not tried")],
        error=DatabaseUnavailableError("The database is away."),
    )
    assert (row.outcome, row.message) == ("interrupted", "7 of 20 applied. The database is away.")


def test_run_without_items_is_not_recorded():
    run = RunRecorder(trigger=WATCH)
    run.begin([])
    assert run.finish() is None
    assert SyncRun.objects.count() == 0


def test_run_progress_is_written_at_most_once_a_second(monkeypatch, django_assert_num_queries):
    now = 100.0
    monkeypatch.setattr("registry_admin.inventory.sync.runs.time.monotonic", lambda: now)
    run = RunRecorder(trigger=WATCH)
    items = [item(1), item(2), item(3)]
    run.begin(items)
    with django_assert_num_queries(0):
        run.progress(done(item(1)))
    now = 101.0
    with django_assert_num_queries(1):
        run.progress(done(item(1)))
        run.progress(done(item(1), item(2)))
    row = SyncRun.objects.get()
    assert (row.outcome, row.registered, row.planned) == ("running", 1, 3)


def test_run_with_unstorable_text_is_recorded():
    run = RunRecorder(trigger=WATCH)
    bad = item(1, reason="\ud800\x00")
    run.begin([bad])
    assert run.finish(done(bad, error="\x00\ud800")) is not None


# -- repeated failures ------------------------------------------------------------------------------------------------


def test_repeated_failure_of_a_watcher_shares_a_row():
    for _ in range(3):
        run = RunRecorder(trigger=WATCH)
        run.begin([item()])
        run.finish(done(item(), error="refused"))
    assert SyncRun.objects.count() == 1
    for _ in range(2):
        RunRecorder(trigger=WATCH).finish(error=ConsulUnavailableError("away"))
    assert SyncRun.objects.count() == 2


def test_run_with_other_trigger_or_result_has_its_own_row():
    for results in (done(item(), error="refused"), done(item(), error="refused otherwise"), done(item())):
        RunRecorder(trigger=WATCH).finish(results)
    RunRecorder(trigger=SyncRun.Trigger.COMMAND).finish(done(item(), error="refused"))
    RunRecorder(trigger=SyncRun.Trigger.COMMAND).finish(done(item(), error="refused"))
    assert SyncRun.objects.count() == 5


def test_second_outage_has_its_own_row():
    RunRecorder(trigger=WATCH).finish(error=ConsulUnavailableError("away"))
    ConsulContact.objects.create(pk=1, reachable=False, since=timezone.now() + timedelta(seconds=5))
    RunRecorder(trigger=WATCH).finish(error=ConsulUnavailableError("away"))
    assert SyncRun.objects.count() == 2


# -- unfinished runs --------------------------------------------------------------------------------------------------


def test_unfinished_run_of_a_dead_leader_is_abandoned_with_its_progress():
    SyncRun.objects.create(
        trigger=WATCH, holder="dead", outcome="running", planned=20, registered=5, updated=2, evicted=1
    )
    mine = SyncRun.objects.create(trigger=WATCH, holder="me", outcome="running")
    ended = SyncRun.objects.create(trigger=WATCH, holder="dead", outcome="done")
    assert runs.abandon_runs("me") == 1
    assert runs.abandon_runs("me") == 0
    left = SyncRun.objects.get(holder="dead", planned=20)
    assert left.outcome == "abandoned"
    assert "8 of 20" in left.message
    for row, outcome in ((mine, "running"), (ended, "done")):
        row.refresh_from_db()
        assert row.outcome == outcome


def test_unfinished_manual_run_is_abandoned_after_an_hour():
    fresh = SyncRun.objects.create(trigger=SyncRun.Trigger.COMMAND, outcome="running")
    old = timezone.now() - timedelta(minutes=61)
    SyncRun.objects.create(trigger=SyncRun.Trigger.COMMAND, outcome="running", started_at=old)
    assert runs.abandon_runs("me") == 1
    assert SyncRun.objects.get(outcome="running") == fresh


# -- pruning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_history_deletes_old_rows_in_batches_and_counts_them(monkeypatch, dry_run):
    monkeypatch.setattr(runs, "PRUNE_BATCH", 2)
    now = timezone.now()
    for age in (1, 2, 29, 31, 32, 33, 34, 35):
        at = now - timedelta(days=age)
        SyncRun.objects.create(trigger=WATCH, outcome="done", started_at=at)
        HealthTransition.objects.bulk_create([HealthTransition(at=at), HealthTransition(at=at)])
        CallCount.objects.create(at=at, caller="a", called="b")
        ObservationGap.objects.create(began_at=at, ended_at=at + timedelta(hours=1))
    ObservationGap.objects.create(began_at=now - timedelta(days=40))  # still open
    assert runs.prune_history(timedelta(days=30), dry_run=dry_run, now=now) == {
        "runs": 5, "transitions": 10, "gaps": 5, "calls": 5, "audit_events": 0, "sessions": 0, "login_counts": 0,
    }  # fmt: skip
    assert (SyncRun.objects.count(), HealthTransition.objects.count()) == ((8, 16) if dry_run else (3, 6))
    assert SyncRun.objects.first().started_at == now - timedelta(days=1)
