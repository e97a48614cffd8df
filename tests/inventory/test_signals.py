"""Declarations reach Consul when their transaction commits, and not before."""

from __future__ import annotations

import pytest
from django.core import serializers
from django.db import transaction

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.models import Instance, Service, SyncRun

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def in_consul(consul):
    """`in_consul()`: returns the IDs that the agent has now."""
    return lambda: set(consul.agent_instances())


def test_saved_declaration_is_registered_and_deleted_one_deregistered(in_consul, declare):
    service = declare("api", 8001)
    assert in_consul() == {"api-127.0.0.1-8001"}
    assert SyncRun.objects.get().trigger == "save"
    service.enabled = False
    service.save()
    assert in_consul() == set()
    service.enabled = True
    service.save()
    assert in_consul() == {"api-127.0.0.1-8001"}
    Instance.objects.get().delete()
    assert in_consul() == set()
    declare("web", 8002)
    Service.objects.get(name="web").delete()
    assert in_consul() == set()


def test_save_in_a_transaction_is_sent_after_commit(in_consul, declare):
    with transaction.atomic():
        declare("api", 8001)
        with transaction.atomic():
            declare("web", 8002)
        assert in_consul() == set()
    assert in_consul() == {"api-127.0.0.1-8001", "web-127.0.0.1-8002"}


def test_changes_of_a_transaction_are_synced_in_a_single_run(in_consul, declare):
    with transaction.atomic():
        for number in range(10):
            declare(f"api-{number}", 8000 + number)
    run = SyncRun.objects.get()
    assert run.registered == 10
    assert run.scope == sorted(f"api-{number}" for number in range(10))


def test_save_in_a_rolled_back_transaction_is_not_sent(in_consul, declare):
    def fail() -> None:
        with transaction.atomic():
            declare("api", 8001)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert in_consul() == set()
    assert not SyncRun.objects.exists()


def test_rolled_back_change_is_not_in_a_later_run(in_consul, declare):
    def fail() -> None:
        with transaction.atomic():
            declare("rolled-back", 8001)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with transaction.atomic():
        declare("api", 8002)
    assert in_consul() == {"api-127.0.0.1-8002"}
    assert SyncRun.objects.get().scope == ["api"]


def test_savepoint_rollback_excludes_only_its_own_changes(in_consul, declare):
    with transaction.atomic():
        with transaction.atomic():
            declare("taken-back", 8001)
            transaction.set_rollback(True)
        declare("api", 8002)
    assert in_consul() == {"api-127.0.0.1-8002"}
    assert SyncRun.objects.get().scope == ["api"]


def test_renamed_service_is_synced_under_both_names(in_consul, consul, declare):
    declare("old", 8001)
    service = Service.objects.get()
    service.name = "new"
    service.save()
    assert {instance.service for instance in consul.agent_instances().values()} == {"new"}
    assert SyncRun.objects.first().scope == ["new", "old"]


def test_fixture_rows_are_left_to_the_watcher(in_consul, declare):
    with transaction.atomic():
        declare("api", 8001)
        fixture = serializers.serialize("json", [*Service.objects.all(), *Instance.objects.all()])
        transaction.set_rollback(True)
    for row in [*serializers.deserialize("json", fixture), *serializers.deserialize("json", fixture)]:
        row.save()
    assert Service.objects.count() == 1
    assert in_consul() == set()


def test_sync_on_save_setting_off_sends_no_change(in_consul, declare, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    assert Instance.objects.count() == 1
    assert in_consul() == set()


@pytest.mark.parametrize("command", ["migrate", "test", "shell", "loaddata"])
def test_database_only_commands_send_no_change(in_consul, declare, monkeypatch, command):
    monkeypatch.setattr("sys.argv", ["manage.py", command])
    declare("api", 8001)
    assert Instance.objects.count() == 1
    assert in_consul() == set()


def test_other_commands_send_changes(in_consul, declare, monkeypatch):
    monkeypatch.setattr("sys.argv", ["manage.py", "seed_inventory"])
    declare("api", 8001)
    assert in_consul() == {"api-127.0.0.1-8001"}


def test_service_delete_runs_no_query_per_instance(in_consul, declare, count_queries, settings):
    settings.REGISTRY = {"REMOVAL_COUNT": "100"}
    declare("few", 8001, 8002)
    declare("many", *range(8100, 8130))
    declare("kept", 8200)
    few = count_queries(Service.objects.get(name="few").delete)
    many = count_queries(Service.objects.get(name="many").delete)
    audit = [sql for sql in many if sql.startswith('INSERT INTO "inventory_historicalinstance"')]
    assert len(audit) == 30  # an audit row per instance
    assert len(many) - len(audit) == len(few) - 2
    assert in_consul() == {"kept-127.0.0.1-8200"}


def test_save_with_consul_away_succeeds_and_is_logged(declare, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("registry_admin"), "propagate", True)
    declare("api", 8001)
    assert Service.objects.count() == Instance.objects.count() == 1
    assert "saved, but not synced yet: Consul at http://127.0.0.1" in caplog.text
    assert SyncRun.objects.filter(outcome="failed").exists()


@pytest.mark.parametrize("fault", [DatabaseUnavailableError("gone again"), ZeroDivisionError("a bug")])
def test_save_succeeds_after_an_error_behind_the_commit(declare, monkeypatch, fault):
    def fail(**_options: object) -> None:
        raise fault

    monkeypatch.setattr("registry_admin.inventory.sync.on_commit.Reconciler.run", fail)
    declare("api", 8001)
    assert Instance.objects.count() == 1


# -- admin ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def form() -> dict[str, object]:
    """Form data of a new service with an instance."""
    return {
        "name": "api", "description": "", "owner": "", "documentation_url": "", "enabled": "on", "tags": "v1, eu",
        "meta": "team = blue", "check_kind": "none", "check_scheme": "http", "check_path": "/health",
        "check_interval": "10s", "check_timeout": "5s", "deregister_after": "30s",
        "instances-TOTAL_FORMS": "1", "instances-INITIAL_FORMS": "0", "instances-0-address": "127.0.0.1",
        "instances-0-port": "8001", "instances-0-weight": "1", "instances-0-consul_id": "",
        "instances-0-extra_tags": "", "instances-0-extra_meta": "", "instances-0-enabled": "on",
    }  # fmt: skip


def texts(response) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def test_admin_save_registers_the_service_and_reports_it(in_consul, consul, operator, form):
    response = operator.post("/admin/inventory/service/add/", form, follow=True)
    actual = consul.agent_instances()["api-127.0.0.1-8001"]
    assert (actual.tags, actual.user_meta) == (("eu", "v1"), {"team": "blue"})
    assert "Synced with Consul: registered api-127.0.0.1-8001." in texts(response)
    run = SyncRun.objects.get()
    assert (run.actor, run.trigger, run.registered) == ("operator", "save", 1)


def test_admin_save_with_consul_away_succeeds_and_reports_pending_sync(operator, form):
    response = operator.post("/admin/inventory/service/add/", form, follow=True)
    assert response.status_code == 200
    assert Instance.objects.get().consul_id == "api-127.0.0.1-8001"
    warning = next(text for text in texts(response) if text.startswith("Saved here, but not in Consul yet"))
    assert "refused the connection" in warning
    assert "The watcher will sync it" in warning
    assert "Unknown" in response.content.decode()


def test_admin_delete_deregisters_the_service(in_consul, operator, declare):
    service = declare("api", 8001)
    response = operator.post(f"/admin/inventory/service/{service.pk}/delete/", {"post": "yes"}, follow=True)
    assert in_consul() == set()
    assert "Synced with Consul: deregistered api-127.0.0.1-8001." in texts(response)


def test_admin_actions_disable_enable_and_sync(in_consul, operator, declare):
    chosen = declare("api", 8001)
    declare("web", 8002)

    def act(action: str, *, confirmed: str = "yes") -> list[str]:
        data = {"action": action, "_selected_action": [chosen.pk], "confirmed": confirmed}
        return texts(operator.post("/admin/inventory/service/", data, follow=True))

    messages = act("disable")
    assert in_consul() == {"web-127.0.0.1-8002"}
    assert messages == ["1 service was disabled.", "Synced with Consul: deregistered api-127.0.0.1-8001."]
    assert act("enable")[0] == "1 service was enabled."
    assert in_consul() == {"api-127.0.0.1-8001", "web-127.0.0.1-8002"}
    assert act("sync_now") == ["Consul matches already: nothing to sync."]
    assert act("delete_selected", confirmed="") == []  # the action asks for confirmation
    assert Service.objects.count() == 2


def test_sync_now_action_restores_departed_instance(in_consul, consul, operator, declare):
    from registry_admin.consul.marks import META_SELF

    service = declare("api", 8001)
    registration = Instance.objects.get().spec()
    consul.register(registration, marks={META_SELF: registration.digest})
    data = {"action": "sync_now", "_selected_action": [service.pk], "confirmed": "yes"}
    operator.post("/admin/inventory/service/", data)
    consul.deregister(registration.id)
    service.save()
    assert in_consul() == set()
    operator.post("/admin/inventory/service/", data)
    assert in_consul() == {registration.id}
    assert SyncRun.objects.first().trigger == "action"


def test_sync_that_failed_leaves_no_names_for_a_later_transaction(in_consul, declare, monkeypatch):
    failures = []

    def fail(_self: object) -> None:
        failures.append(ZeroDivisionError())
        raise failures[-1]

    with monkeypatch.context() as patch:
        patch.setattr("registry_admin.inventory.sync.on_commit.Reconciler.run", fail)
        declare("failed", 8001)
    assert failures
    with transaction.atomic():
        declare("rolled-back", 8002)
        transaction.set_rollback(True)
    declare("api", 8003)
    assert SyncRun.objects.latest("pk").scope == ["api"]
