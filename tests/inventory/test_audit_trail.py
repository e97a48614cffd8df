"""The audit trail: a row and a line for each act, and a database that refuses to change it."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.core.management import call_command
from django.db import InternalError, ProgrammingError, connection, transaction
from django.utils import timezone

from registry_admin.errors import ConsulUnavailableError
from registry_admin.inventory.actor import acting_as
from registry_admin.inventory.audit_trail import RowBudget, record_act, record_refusal
from registry_admin.inventory.models import AuditEvent, EvictionHalt, HealthTransition, Instance, Service, SyncRun
from registry_admin.inventory.sync import runs
from registry_admin.inventory.sync.halts import confirm_halts
from registry_admin.inventory.sync.maintenance import probe_checks, set_maintenance
from registry_admin.inventory.sync.on_commit import set_enabled
from registry_admin.inventory.sync.runs import RunRecorder
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.plan import Action as PlanAction
from registry_admin.reconcile.plan import PlanItem, SyncStatus
from registry_admin.request_context import RequestContext, serving
from tests.parts import mirrored
from tests.parts.audit_trail import keep_trail

Action = AuditEvent.Action
WATCH = SyncRun.Trigger.WATCH
PLANNED = PlanItem(
    action=PlanAction.REGISTER, service="api", id="api-1", reason="not in Consul yet", status=SyncStatus.MISSING
)
ROLES = Path(__file__).parents[2] / "deploy" / "postgresql-roles.sql"


def events() -> list[tuple[str, str, str]]:
    return list(AuditEvent.objects.order_by("pk").values_list("action", "actor", "target"))


@pytest.mark.django_db
def test_record_act_writes_row_and_line_with_actor_and_request(caplog):
    caplog.set_level(logging.INFO)
    with acting_as("ada", "admin"), serving(RequestContext(request_id="r" * 32, address="192.0.2.1")):
        record_act(Action.EXPORT, target="api\x00", detail="3 services")
    event = AuditEvent.objects.get()
    assert (event.actor, event.via, event.address, event.request_id) == ("ada", "admin", "192.0.2.1", "r" * 32)
    assert (event.target, event.detail) == ("api\N{REPLACEMENT CHARACTER}", "3 services")
    (line,) = [record for record in caplog.records if record.name == "registry_admin.inventory.audit_trail"]
    assert (line.getMessage(), line.event, line.actor, line.target) == ("Exported", "export", "ada", event.target)


@pytest.mark.django_db
def test_record_refusal_writes_a_bounded_number_of_rows_and_each_line(caplog, monkeypatch):
    monkeypatch.setattr("registry_admin.inventory.audit_trail._refusals", RowBudget(3))
    for number in range(10):
        record_refusal(Action.LOGIN_FAILED, target=str(number), actor="")
    assert AuditEvent.objects.count() == 3
    assert len([record for record in caplog.records if record.getMessage() == "Login failed"]) == 10
    record_refusal(Action.PERMISSION_REFUSED, actor="ada")
    assert AuditEvent.objects.filter(actor="ada").exists()


def test_row_budget_is_full_again_after_a_minute():
    now = [0.0]
    budget = RowBudget(2, clock=lambda: now[0])
    assert [budget.take() for _ in range(3)] == [True, True, False]
    now[0] = 60.0
    assert budget.take()


@pytest.mark.django_db
def test_maintenance_and_probe_leave_a_row(caplog):
    mirrored.declare("api")
    instance_id = Instance.objects.get().consul_id
    set_maintenance("api", [instance_id], enable=True, reason="new disk")
    set_maintenance("api", [instance_id], enable=False)
    probe_checks("api")
    acts = [event[0] for event in events()]
    assert acts[:2] == [Action.MAINTENANCE_ON, Action.MAINTENANCE_OFF]
    assert acts[-1] == Action.CHECK_TRIED
    assert "new disk" in AuditEvent.objects.filter(action=Action.MAINTENANCE_ON).get().detail


@pytest.mark.django_db
def test_sync_that_changes_nothing_leaves_a_row(consul, sync):
    sync(trigger="action")
    event = AuditEvent.objects.get()
    assert (event.action, event.detail) == (Action.SYNC, "nothing to change")


@pytest.mark.django_db
def test_sync_with_changes_names_its_run(consul, sync, declare, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    result = sync()
    assert AuditEvent.objects.get(action=Action.SYNC).detail == f"1 changes, 0 failed (run {result.run_id})"


@pytest.mark.django_db
def test_watchers_run_leaves_no_row(consul, sync):
    assert sync(trigger="watch").ok
    assert not AuditEvent.objects.filter(action=Action.SYNC).exists()


@pytest.mark.django_db
def test_export_import_and_switch_leave_a_row(operator, capsys, tmp_path):
    Service.objects.create(name="api")
    operator.get("/admin/inventory/service/export/")
    document = tmp_path / "inventory.yaml"
    document.write_text("format: 1\nservices: [{name: web}]\n")
    call_command("import_registry", str(document))
    set_enabled(Service.objects.filter(name="api"), enabled=False)
    expected = [(Action.EXPORT, "operator", "api"), (Action.IMPORT, "web"), (Action.DISABLED, "api")]
    recorded = [event if event[0] == Action.EXPORT else (event[0], event[2]) for event in events()]
    assert [event for event in recorded if event in expected] == expected


@pytest.mark.django_db(transaction=True)
def test_removed_declaration_leaves_a_line(caplog, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    caplog.set_level(logging.INFO)
    with acting_as("ada", "admin"):
        Service.objects.create(name="api").delete()
    lines = [(record.getMessage(), record.actor, record.target) for record in caplog.records if hasattr(record, "via")]
    assert lines[-2:] == [("Declared", "ada", "service api"), ("Declaration removed", "ada", "service api")]


@pytest.mark.django_db(transaction=True)
def test_change_that_is_rolled_back_leaves_no_line(caplog):
    caplog.set_level(logging.INFO)
    with transaction.atomic():
        Service.objects.create(name="api")
        transaction.set_rollback(True)
    assert not [record for record in caplog.records if record.getMessage() == "Declared"]


@pytest.mark.django_db
def test_prune_history_deletes_events_after_their_own_time(settings):
    settings.REGISTRY = {"AUDIT_KEPT": "1000h"}
    for days in (10, 40, 50):
        AuditEvent.objects.create(action=Action.EXPORT, at=timezone.now() - timedelta(days=days))
    assert runs.prune_history(timedelta(hours=1))["audit_events"] == 1
    assert AuditEvent.objects.count() == 2


# -- what PostgreSQL refuses ------------------------------------------------------------------------------------------


@pytest.fixture
def trail(db):
    """The tables of the trail with their triggers, and a row each that is young."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no roles, and its file belongs to whoever writes it")
    Service.objects.create(name="api")
    record_act(Action.EXPORT)
    keep_trail()
    return {"inventory_auditevent": "actor", "inventory_historicalservice": "history_change_reason"}


def refused(statement: str) -> bool:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    except (InternalError, ProgrammingError) as error:
        return "is refused" in str(error) or "permission denied" in str(error)
    return False


def test_trail_is_changed_by_nobody(trail):
    for table, column in trail.items():
        for statement in (f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            assert refused(statement), statement
    assert AuditEvent.objects.get().actor != "x"


def test_finished_run_is_changed_by_nobody(trail):
    run = RunRecorder(trigger=SyncRun.Trigger.ACTION, actor="ada")
    run.begin([PLANNED])
    assert refused("UPDATE inventory_syncrun SET actor = 'bob'")
    assert refused("DELETE FROM inventory_syncrun")
    run.finish([ItemResult(item=PLANNED)])
    for statement in (
        "UPDATE inventory_syncrun SET outcome = 'running'", "UPDATE inventory_syncrun SET items = '[]'",
        "DELETE FROM inventory_syncrun", "TRUNCATE inventory_syncrun",
    ):  # fmt: skip
        assert refused(statement), statement
    row = SyncRun.objects.get()
    assert (row.actor, row.outcome, row.registered) == ("ada", SyncRun.Outcome.DONE, 1)


def test_run_that_others_gave_up_says_how_it_ended(trail):
    run = RunRecorder(trigger=WATCH, holder="frozen")
    run.begin([PLANNED])
    run.progress([])
    assert runs.abandon_runs("next") == 1
    run.finish([ItemResult(item=PLANNED)])
    assert SyncRun.objects.get().outcome == SyncRun.Outcome.DONE
    run.finish([], error=ConsulUnavailableError("away"))
    assert SyncRun.objects.get().outcome == SyncRun.Outcome.DONE


def test_retention_deletes_runs_of_watchers_early_and_of_people_after_a_month(trail):
    for days in (2, 31):
        for trigger in (WATCH, SyncRun.Trigger.ACTION):
            at = timezone.now() - timedelta(days=days)
            SyncRun.objects.create(trigger=trigger, outcome="done", started_at=at)
    assert runs.prune_history(timedelta(hours=1))["runs"] == 3
    assert SyncRun.objects.get().trigger == SyncRun.Trigger.ACTION
    assert refused("DELETE FROM inventory_syncrun")


def test_repeated_failure_of_a_watcher_still_shares_a_row(trail):
    for _ in range(2):
        run = RunRecorder(trigger=WATCH)
        run.begin([PLANNED])
        run.finish([ItemResult(item=PLANNED, error="refused")])
    assert SyncRun.objects.count() == 1


def test_confirmed_halt_only_ends(trail):
    halt = EvictionHalt.objects.create(kind="node", name="n1", instances=[["n1", "api"]])
    with acting_as("ada", "admin"):
        assert confirm_halts(EvictionHalt.objects.all()) == 1
    for statement in (
        "UPDATE inventory_evictionhalt SET confirmed_by = 'bob'",
        "UPDATE inventory_evictionhalt SET confirmed_at = NULL", "DELETE FROM inventory_evictionhalt",
        "TRUNCATE inventory_evictionhalt",
    ):  # fmt: skip
        assert refused(statement), statement
    EvictionHalt.objects.filter(pk=halt.pk).update(ended_at=timezone.now())
    assert EvictionHalt.objects.get().confirmed_by == "ada"


def test_trail_that_is_old_is_deleted_by_retention(trail, settings):
    settings.REGISTRY = {"AUDIT_KEPT": "720h"}
    AuditEvent.objects.create(action=Action.EXPORT, at=timezone.now() - timedelta(days=31))
    assert runs.prune_history(timedelta(days=30))["audit_events"] == 1
    assert refused("DELETE FROM inventory_auditevent")


def test_role_of_the_site_adds_to_the_trail_and_changes_no_table(trail):
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE registry_admin_web")
        cursor.execute(ROLES.read_text())
        cursor.execute("SET LOCAL ROLE registry_admin_web")
    record_act(Action.EXPORT, target="by the site")
    Service.objects.filter(name="api").update(owner="us")
    run = RunRecorder(trigger=WATCH)
    run.begin([PLANNED])
    run.finish([ItemResult(item=PLANNED)])
    EvictionHalt.objects.create(kind="node", name="n1")
    assert confirm_halts(EvictionHalt.objects.all()) == 1
    HealthTransition.objects.create(consul_id="api")
    HealthTransition.objects.update(before="unknown")
    assert (AuditEvent.objects.count(), Service.objects.get().owner) == (3, "us")
    for statement in (
        "ALTER TABLE inventory_auditevent DISABLE TRIGGER ALL", "DROP TRIGGER keep_trail ON inventory_auditevent",
        "SET session_replication_role = replica", "TRUNCATE inventory_auditevent",
        "CREATE OR REPLACE FUNCTION inventory_keep_trail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
        "UPDATE inventory_auditevent SET actor = 'x'", "DELETE FROM inventory_auditevent",
        "DELETE FROM inventory_historicalservice", "DELETE FROM django_migrations",
        "UPDATE inventory_syncrun SET actor = 'x'", "UPDATE inventory_syncrun SET outcome = 'failed'",
        "UPDATE inventory_evictionhalt SET name = 'x'", "UPDATE inventory_evictionhalt SET confirmed_by = 'x'",
        "UPDATE inventory_healthtransition SET after = 'passing'", "UPDATE django_admin_log SET object_id = '1'",
    ):  # fmt: skip
        with pytest.raises(ProgrammingError) as refusal, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
        assert isinstance(refusal.value.__cause__, psycopg.errors.InsufficientPrivilege), statement
    assert not AuditEvent.objects.filter(actor="x").exists()
