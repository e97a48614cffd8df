"""`adopt_registry` against a real agent: it says what would change before it declares anything."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command

from registry_admin.inventory.models import Instance, Service
from tests.fixtures.django import OWNER
from tests.parts import ConsulAgent

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def foreign(consul, consul_agent: ConsulAgent, sync) -> str:
    body = {"ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1", "Port": 9001, "Tags": ["old"]}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    sync()
    return "legacy-1"


def test_dry_run_prints_what_would_change_and_declares_nothing(consul, foreign, declare, sync, capsys):
    declare("legacy", 8001, tags=["blue"], check_kind="none")
    call_command("adopt_registry", foreign, "--dry-run")
    output = capsys.readouterr().out
    assert f"+ {foreign}: declared, marked as ours, and changed: tags: ['old'] -> ['blue', 'old']" in output
    assert "Dry run: nothing was changed." in output
    assert not Instance.objects.filter(consul_id=foreign).exists()
    assert consul.agent_instances()[foreign].owner == ""


def test_instances_of_a_service_are_adopted_as_they_are(consul, foreign, capsys):
    call_command("adopt_registry", "--service", "legacy")
    output = capsys.readouterr().out
    assert f"+ {foreign}: declared and marked as ours; nothing else changes" in output
    assert "1 of 1 adopted." in output
    actual = consul.agent_instances()[foreign]
    assert (actual.owner, actual.tags) == (OWNER, ("old",))


def test_instance_that_is_left_alone_is_named_and_exits_with_1(consul, consul_agent: ConsulAgent, sync, capsys):
    body = {"ID": "mesh-1", "Name": "mesh", "Address": "127.0.0.1", "Port": 9001, "Connect": {"Native": True}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    sync()
    with pytest.raises(SystemExit) as caught:
        call_command("adopt_registry", "mesh-1")
    assert caught.value.code == 1
    assert "· mesh-1: left alone: it has Connect" in capsys.readouterr().out
    assert not Service.objects.exists()


def test_unknown_id_is_an_error(consul, sync):
    sync()
    with pytest.raises(CommandError, match="No instance in Consul"):
        call_command("adopt_registry", "nothing")
