"""Maintenance mode is kept: across an agent's loss of state, new IDs and modules that register themselves anew."""

from __future__ import annotations

import pytest

from registry_admin.consul import CheckKind, CheckSpec, Health, ServiceSpec
from registry_admin.consul.types import META_SELF
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.sync.maintenance import set_maintenance
from tests.parts import ConsulAgent, PassingPoller, wait_until

pytestmark = pytest.mark.django_db

ID = "api-127.0.0.1-8001"


def kept() -> str:
    return Instance.objects.get().maintenance


def in_catalog(api, *, health: Health | None = None) -> bool:
    found = api.instances("api").data
    return bool(found) and (health is None or found[0].health is health)


@pytest.fixture
def maintained(consul, declare, sync) -> None:
    """A declared instance without a check, in maintenance."""
    declare("api", 8001)
    sync()
    wait_until(lambda: in_catalog(consul), what="the catalog")
    assert set_maintenance("api", [ID], enable=True, reason="a disk").done == (ID,)
    assert kept().startswith("a disk")


def test_maintenance_set_by_hand_is_kept_and_forgotten_when_ended_by_hand(consul, declare, sync):
    declare("api", 8001)
    sync()
    wait_until(lambda: in_catalog(consul), what="the catalog")
    consul.set_maintenance(ID, enable=True, reason="by hand")
    sync()
    assert kept() == "by hand"
    consul.set_maintenance(ID, enable=False)
    assert sync().results == ()
    assert kept() == ""
    assert consul.agent_instances()[ID].health is Health.PASSING


def test_maintenance_ended_by_us_is_forgotten(consul, maintained, sync):
    assert set_maintenance("api", [ID], enable=False).done == (ID,)
    assert kept() == ""
    assert sync().results == ()
    assert consul.agent_instances()[ID].health is Health.PASSING


def test_agent_that_lost_its_state_gets_the_instance_back_in_maintenance(own_agent: ConsulAgent, declare, sync):
    from registry_admin.inventory.conf import consul_api

    declare("api", 8001)
    sync()
    wait_until(lambda: in_catalog(consul_api()), what="the catalog")
    set_maintenance("api", [ID], enable=True, reason="a disk")
    own_agent.stop()
    own_agent.start()
    with PassingPoller(own_agent, "api") as poller:
        assert sync().ok
        wait_until(lambda: in_catalog(consul_api(), health=Health.MAINTENANCE), what="the catalog")
    assert poller.seen == [frozenset()]
    assert "a disk" in consul_api().agent_instances()[ID].output
    sync()
    consul_api().set_maintenance(ID, enable=False)
    assert sync().results == ()
    assert kept() == ""


def test_instance_removed_by_hand_returns_in_maintenance(consul, consul_agent, maintained, sync):
    consul.deregister(ID)
    wait_until(lambda: not in_catalog(consul), what="the catalog")
    with PassingPoller(consul_agent, "api") as poller:
        assert sync().ok
        wait_until(lambda: in_catalog(consul, health=Health.MAINTENANCE), what="the catalog")
    assert poller.seen == [frozenset()]


def test_maintenance_survives_an_update(consul, consul_agent, maintained, sync):
    with PassingPoller(consul_agent, "api") as poller:
        Service.objects.update(tags=["edited"], check_kind=CheckKind.TTL)
        assert sync().ok
        assert consul.agent_instances()[ID].tags == ("edited",)
    assert poller.seen == [frozenset()]
    assert consul.agent_instances()[ID].health is Health.MAINTENANCE


def test_maintenance_moves_along_to_a_new_id(consul, consul_agent, maintained, sync):
    with PassingPoller(consul_agent, "api") as poller:
        row = Instance.objects.get()
        row.port = 8002
        row.save()
        sync()
        wait_until(lambda: len(consul.instances("api").data) == 2, what="both in the catalog")
        sync()
        wait_until(lambda: len(consul.instances("api").data) == 1, what="the former to leave")
    assert poller.seen == [frozenset()]
    now = consul.agent_instances()
    assert now.keys() == {row.consul_id}
    assert now[row.consul_id].health is Health.MAINTENANCE
    assert "a disk" in now[row.consul_id].output


def test_module_that_registers_itself_anew_is_put_back_into_maintenance(consul, declare, sync):
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8001, id=ID, check=CheckSpec(kind=CheckKind.NONE))
    declare("api", 8001)
    consul.register(spec, marks={META_SELF: "0"})
    sync()
    wait_until(lambda: in_catalog(consul), what="the catalog")
    set_maintenance("api", [ID], enable=True, reason="a disk")
    consul.deregister(ID)
    consul.register(spec, marks={META_SELF: "0"})
    wait_until(lambda: in_catalog(consul, health=Health.PASSING), what="the catalog")
    assert sync().ok
    assert consul.agent_instances()[ID].health is Health.MAINTENANCE
    sync()
    consul.set_maintenance(ID, enable=False)
    sync()
    assert (kept(), consul.agent_instances()[ID].health) == ("", Health.PASSING)


def test_instance_that_is_not_registered_can_be_put_into_maintenance_and_out(consul, declare, sync):
    declare("api", 8001)
    assert set_maintenance("api", [ID], enable=True, reason="later").done == (ID,)
    assert consul.agent_instances()[ID].health is Health.MAINTENANCE
    consul.deregister(ID)
    sync(prune=False, items=["other"])
    assert set_maintenance("api", [ID], enable=False).done == (ID,)
    assert consul.agent_instances()[ID].health is Health.PASSING


def test_maintenance_of_a_stranger_with_the_same_id_is_not_kept(consul, consul_agent, declare, sync):
    body = {"ID": ID, "Name": "api", "Address": "127.0.0.1", "Port": 9}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    consul.set_maintenance(ID, enable=True, reason="theirs")
    declare("api", 8001)
    sync()
    assert kept() == ""
