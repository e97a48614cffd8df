"""An import shows what it would do in Consul, with the brake's conclusion, before anything is written."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from registry_admin.inventory.exchange import prepare_import
from registry_admin.inventory.exchange.consul_preview import preview_in_consul
from registry_admin.inventory.models import Instance, Service, SyncRun
from registry_admin.reconcile.plan import Action

pytestmark = pytest.mark.django_db(transaction=True)

IMPORT = "/admin/inventory/service/import/"


def document(*ports: int, name: str = "api") -> str:
    instances = [{"address": "127.0.0.1", "port": port} for port in ports]
    return json.dumps({"format": 1, "services": [{"name": name, "check": {"kind": "none"}, "instances": instances}]})


def test_preview_in_consul_is_the_plan_of_the_sync_that_follows(consul, declare, sync):
    declare("api", 8001, 8002)
    sync()
    runs = SyncRun.objects.count()
    prepared = prepare_import(document(8001, 8003), delete_unlisted=True)
    plan = preview_in_consul(prepared).plan
    planned = {(item.action, item.id) for item in plan.items}
    assert planned == {(Action.DEREGISTER, "api-127.0.0.1-8002"), (Action.REGISTER, "api-127.0.0.1-8003")}
    assert set(consul.agent_instances()) == {"api-127.0.0.1-8001", "api-127.0.0.1-8002"}
    assert set(Instance.objects.values_list("port", flat=True)) == {8001, 8002}
    assert SyncRun.objects.count() == runs
    prepare_import(document(8001, 8003), delete_unlisted=True).apply()
    assert set(consul.agent_instances()) == {"api-127.0.0.1-8001", "api-127.0.0.1-8003"}


def test_preview_in_consul_tells_what_the_brake_would_hold(consul, declare, sync):
    declare("api", *range(8001, 8009))
    sync()
    result = preview_in_consul(prepare_import(document(8001), delete_unlisted=True))
    assert len(result.plan.held) == 7
    assert "The brake holds 7 of 7 removals" in str(result.error)
    assert len(consul.agent_instances()) == 8


def test_preview_while_consul_is_away_says_so():
    result = preview_in_consul(prepare_import(document(8001)))
    assert result.plan is None
    assert "Consul" in str(result.error)
    assert not Service.objects.exists()


def test_import_page_shows_the_plan_for_consul(consul, operator):
    page = operator.post(IMPORT, {"text": document(8001)}).content.decode()
    plan = page.partition('id="in-consul"')[2].partition("</section>")[0]
    assert "Plan: 1 to register, 0 to update, 0 to deregister" in plan
    assert "api-127.0.0.1-8001" in plan
    assert not Service.objects.exists()
    assert not consul.agent_instances()


def test_import_page_opens_while_consul_is_away(operator):
    page = operator.post(IMPORT, {"text": document(8001)}).content.decode()
    assert "2 to create" in page
    assert "Consul" in page.partition('id="in-consul"')[2].partition("</section>")[0].partition("errornote")[2]


def test_dry_run_of_the_command_prints_the_plan_for_consul(consul, tmp_path, capsys):
    source = tmp_path / "registry.json"
    source.write_text(document(8001))
    call_command("import_registry", str(source), dry_run=True)
    output = capsys.readouterr().out
    assert "In Consul:" in output
    assert "Plan: 1 to register" in output
    call_command("import_registry", str(source), dry_run=True, json=True)
    report = json.loads(capsys.readouterr().out)
    assert [item["action"] for item in report["consul"]["items"]] == ["register"]
    assert report["consul_error"] == ""
    assert not Service.objects.exists()
