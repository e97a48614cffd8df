"""A declaration that is saved is in Consul as soon as its transaction has committed, and never before."""

from __future__ import annotations

import pytest
from django.core import serializers
from django.db import transaction

from registry_admin.errors import StoreUnavailableError
from registry_admin.inventory.models import Instance, Service, SyncRun

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def in_consul(consul):
    """`in_consul()`: the IDs that the agent has now."""
    return lambda: set(consul.agent_instances())


def test_what_is_saved_is_in_consul_and_what_is_deleted_is_not(in_consul, declare):
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
    Service.objects.all().delete()
    assert in_consul() == set()


def test_nothing_is_sent_before_the_transaction_commits(in_consul, declare):
    with transaction.atomic():
        declare("api", 8001)
        with transaction.atomic():
            declare("web", 8002)
        assert in_consul() == set()
    assert in_consul() == {"api-127.0.0.1-8001", "web-127.0.0.1-8002"}


def test_all_that_one_transaction_changes_is_a_single_pass(in_consul, declare):
    with transaction.atomic():
        for number in range(10):
            declare(f"api-{number}", 8000 + number)
    run = SyncRun.objects.get()
    assert run.registered == 10
    assert run.scope == sorted(f"api-{number}" for number in range(10))


def test_a_transaction_that_is_rolled_back_sends_nothing(in_consul, declare):
    def fail() -> None:
        with transaction.atomic():
            declare("api", 8001)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert in_consul() == set()
    assert not SyncRun.objects.exists()


def test_what_was_rolled_back_is_in_no_later_pass(in_consul, declare):
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


def test_only_what_a_savepoint_takes_back_is_left_out(in_consul, declare):
    with transaction.atomic():
        with transaction.atomic():
            declare("taken-back", 8001)
            transaction.set_rollback(True)
        declare("api", 8002)
    assert in_consul() == {"api-127.0.0.1-8002"}
    assert SyncRun.objects.get().scope == ["api"]


def test_a_renamed_service_is_looked_for_under_both_names(in_consul, consul, declare):
    declare("old", 8001)
    service = Service.objects.get()
    service.name = "new"
    service.save()
    assert {one.service for one in consul.agent_instances().values()} == {"new"}
    assert SyncRun.objects.first().scope == ["new", "old"]


def test_rows_loaded_from_a_file_are_left_to_the_watcher(in_consul, declare):
    with transaction.atomic():
        declare("api", 8001)
        fixture = serializers.serialize("json", [*Service.objects.all(), *Instance.objects.all()])
        transaction.set_rollback(True)
    for row in [*serializers.deserialize("json", fixture), *serializers.deserialize("json", fixture)]:
        row.save()
    assert Service.objects.count() == 1
    assert in_consul() == set()


def test_a_setting_switches_it_off(in_consul, declare, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    assert in_consul() == set()


@pytest.mark.parametrize("command", ["migrate", "test", "shell", "loaddata"])
def test_commands_that_only_work_on_the_database_send_nothing(in_consul, declare, monkeypatch, command):
    monkeypatch.setattr("sys.argv", ["manage.py", command])
    declare("api", 8001)
    assert in_consul() == set()


def test_other_commands_do(in_consul, declare, monkeypatch):
    monkeypatch.setattr("sys.argv", ["manage.py", "seed_inventory"])
    declare("api", 8001)
    assert in_consul() == {"api-127.0.0.1-8001"}


def test_deleting_a_service_costs_no_query_per_instance(in_consul, declare, count_queries):
    declare("few", 8001, 8002)
    declare("many", *range(8100, 8130))
    declare("kept", 8200)
    few = count_queries(Service.objects.get(name="few").delete)
    many = count_queries(Service.objects.get(name="many").delete)
    audit = [sql for sql in many if sql.startswith('INSERT INTO "inventory_historicalinstance"')]
    assert len(audit) == 30  # who deleted what is one row each
    assert len(many) - len(audit) == len(few) - 2
    assert in_consul() == {"kept-127.0.0.1-8200"}


def test_consul_away_does_not_fail_a_save_and_is_told_in_the_log(declare, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("registry_admin"), "propagate", True)
    declare("api", 8001)
    assert Service.objects.count() == Instance.objects.count() == 1
    assert "saved, but not synced yet: Consul at http://127.0.0.1" in caplog.text
    assert SyncRun.objects.filter(outcome="failed").exists()


@pytest.mark.parametrize("fault", [StoreUnavailableError("gone again"), ZeroDivisionError("a bug")])
def test_whatever_goes_wrong_after_the_commit_does_not_fail_the_save(declare, monkeypatch, fault):
    def fail(**_options: object) -> None:
        raise fault

    monkeypatch.setattr("registry_admin.inventory.services.Pass.make", fail)
    declare("api", 8001)
    assert Instance.objects.count() == 1


# -- through the admin's form -----------------------------------------------------------------------------------------


@pytest.fixture
def form() -> dict[str, object]:
    """What a browser sends for a new service with one instance."""
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


def test_what_is_saved_in_the_admin_is_in_consul_and_the_page_says_so(in_consul, consul, operator, form):
    response = operator.post("/admin/inventory/service/add/", form, follow=True)
    found = consul.agent_instances()["api-127.0.0.1-8001"]
    assert (found.tags, found.own_meta) == (("eu", "v1"), {"team": "blue"})
    assert "Synced with Consul: registered api-127.0.0.1-8001." in texts(response)
    run = SyncRun.objects.get()
    assert (run.actor, run.trigger, run.registered) == ("operator", "save", 1)


def test_with_consul_away_it_is_saved_and_the_page_says_what_will_happen(operator, form):
    response = operator.post("/admin/inventory/service/add/", form, follow=True)
    assert response.status_code == 200
    assert Instance.objects.get().consul_id == "api-127.0.0.1-8001"
    warning = next(text for text in texts(response) if text.startswith("Saved here, but not in Consul yet"))
    assert "refused the connection" in warning
    assert "The watcher will sync it" in warning
    assert "Unknown" in response.content.decode()


def test_deleting_in_the_admin_takes_it_out_of_consul(in_consul, operator, declare):
    service = declare("api", 8001)
    response = operator.post(f"/admin/inventory/service/{service.pk}/delete/", {"post": "yes"}, follow=True)
    assert in_consul() == set()
    assert "Synced with Consul: deregistered api-127.0.0.1-8001." in texts(response)


def test_actions_switch_off_and_on_and_sync(in_consul, operator, declare):
    chosen = declare("api", 8001)
    declare("web", 8002)

    def act(action: str) -> list[str]:
        data = {"action": action, "_selected_action": [chosen.pk], "confirmed": "yes"}
        return texts(operator.post("/admin/inventory/service/", data, follow=True))

    told = act("disable")
    assert in_consul() == {"web-127.0.0.1-8002"}
    assert told == ["1 service was disabled.", "Synced with Consul: deregistered api-127.0.0.1-8001."]
    assert act("enable")[0] == "1 service was enabled."
    assert in_consul() == {"api-127.0.0.1-8001", "web-127.0.0.1-8002"}
    assert act("sync_now") == ["Consul matches already: nothing to sync."]
    assert act("delete_selected") == []  # it asks first
    assert Service.objects.count() == 2


def test_sync_now_brings_back_what_had_left_by_itself(in_consul, consul, operator, declare):
    from registry_admin.consul.types import META_SELF

    service = declare("api", 8001)
    itself = Instance.objects.get().spec()
    consul.register(itself, marks={META_SELF: itself.digest})
    data = {"action": "sync_now", "_selected_action": [service.pk], "confirmed": "yes"}
    operator.post("/admin/inventory/service/", data)
    consul.deregister(itself.id)
    service.save()
    assert in_consul() == set()
    operator.post("/admin/inventory/service/", data)
    assert in_consul() == {itself.id}
    assert SyncRun.objects.first().trigger == "action"
