"""Whose an instance is, on real agents: several nodes, a copied mark, another inventory, a restored database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, Mark, Place, ServiceSpec
from registry_admin.consul.marks import META_MARK, META_OWNER, META_RELEASED, META_SELF
from registry_admin.inventory.models import (
    ConsulContact,
    Instance,
    InventoryIdentity,
    ObservedInstance,
    ReleasedInstance,
    Service,
)
from registry_admin.inventory.selectors import read_owner
from registry_admin.inventory.sync.adoption import adopt
from registry_admin.inventory.sync.maintenance import set_maintenance
from registry_admin.inventory.sync.release import release
from registry_admin.reconcile.conclusion import Conclusion
from tests.fixtures.django import OWNER
from tests.parts import ConsulAgent, ConsulNodes, wait_until

pytestmark = pytest.mark.django_db

API = "api-127.0.0.1-8001"
NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture(autouse=True)
def _only_the_test_syncs(settings) -> None:
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}


def registered(agent: ConsulAgent | ConsulApi) -> dict[str, Any]:
    """Returns what the agent has, as Consul says it."""
    if isinstance(agent, ConsulAgent):
        return dict(agent.request("GET", "/v1/agent/services"))
    return {key: (one.address, one.port, dict(one.meta)) for key, one in agent.agent_instances().items()}


def done(result: Any) -> list[tuple[str, str]]:
    assert all(item.ok for item in result.results), result.results
    return [(str(item.item.action), item.item.id) for item in result.results]


def register(agent: ConsulAgent, instance_id: str, **fields: Any) -> None:
    body = {"ID": instance_id, "Name": "web", "Address": "10.0.0.9", "Port": 80} | fields
    agent.request("PUT", "/v1/agent/service/register", body=body)


def passing(agent: ConsulAgent, service: str) -> list[str]:
    """Returns the nodes on which the service passes, as callers find it."""
    return [entry["Node"]["Node"] for entry in agent.request("GET", f"/v1/health/service/{service}?passing")]


# -- several nodes ----------------------------------------------------------------------------------------------------


def test_failover_to_another_agent_leaves_a_strangers_instance_of_the_same_id(nodes: ConsulNodes, use_consul, sync):
    first, second = nodes.add("n1"), nodes.add("n2")
    register(first, "web", Address="10.0.0.1")
    register(second, "web", Address="10.0.0.2")
    use_consul(first)
    sync()
    adopted = adopt(ObservedInstance.objects.filter(node="n1"))
    assert adopted.done == ("web",)
    assert done(sync()) == [("update", "web")]
    before = registered(second)
    nodes.fail(first, "n1")
    use_consul(second)
    result = sync()
    assert done(result) == []
    assert registered(second) == before
    row = Instance.objects.get()
    assert (row.sync_status, row.sync_cause, row.claimed_node) == ("out_of_sync", "foreign", "n1")
    assert result.conclusion is Conclusion.HELD


def test_instance_on_a_failed_node_is_registered_here_and_its_twin_leaves_once_it_passes(
    nodes: ConsulNodes, use_consul, declare, sync
):
    first, second = nodes.add("n1"), nodes.add("n2")
    use_consul(first)
    declare("api", 8001)
    assert done(sync()) == [("register", API)]
    wait_until(lambda: passing(nodes.hub, "api") == ["n1"], 20, "the catalog")
    nodes.fail(first, "n1")
    use_consul(second)
    result = sync()
    assert done(result) == [("register", API)]
    assert result.results[0].item.cause == "node_failed"
    assert (Instance.objects.get().sync_status, Instance.objects.get().claimed_node) == ("synced", "n2")
    assert passing(nodes.hub, "api") == ["n2"]

    first.start()
    wait_until(lambda: sorted(passing(nodes.hub, "api")) == ["n1", "n2"], 30, "the old node to be back")
    assert done(sync()) == []
    use_consul(first)
    assert done(sync()) == [("deregister", API)]
    wait_until(lambda: passing(nodes.hub, "api") == ["n2"], 20, "one of the two to be gone")
    assert done(sync()) == []


def test_sync_now_leaves_a_module_that_left_on_another_node_to_its_module(
    nodes: ConsulNodes, use_consul, declare, sync
):
    first, second = nodes.add("n1"), nodes.add("n2")
    module = ConsulApi(second.config)
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8001, check=NO_CHECK)
    module.register(spec, marks={META_SELF: spec.digest})
    wait_until(lambda: passing(nodes.hub, "api") == ["n2"], 20, "the module in the catalog")
    use_consul(first)
    declare("api", 8001)
    assert done(sync()) == []
    module.deregister(API)
    wait_until(lambda: not passing(nodes.hub, "api"), 20, "the module to have left")
    sync()
    assert done(sync(restore={"api"})) == []
    row = Instance.objects.get()
    assert (row.sync_status, row.sync_cause, row.departed_node) == ("missing", "left", "n2")
    module.register(spec, marks={META_SELF: spec.digest})
    wait_until(lambda: passing(nodes.hub, "api") == ["n2"], 20, "the module to be back")
    assert done(sync()) == []
    assert registered(first) == {}
    module.close()


@pytest.fixture
def elsewhere(consul_agent) -> Any:
    """`elsewhere("web", Meta={…})`: an instance of another node in the catalog."""

    def make(instance_id: str, *, failed: bool = False, **fields: Any) -> None:
        service = {"ID": instance_id, "Service": "api", "Address": "10.0.0.9", "Port": 80} | fields
        health = {"CheckID": "serfHealth", "Name": "serf", "Status": "critical" if failed else "passing"}
        body = {"Node": "other", "Address": "10.0.0.9", "Service": service, "Check": health, "SkipNodeUpdate": False}
        consul_agent.request("PUT", "/v1/catalog/register", body=body)

    yield make
    consul_agent.request("PUT", "/v1/catalog/deregister", body={"Node": "other"})


def test_id_that_a_stranger_has_on_another_node_is_registered_and_maintained_here(
    consul, elsewhere, declare, sync, operator
):
    elsewhere(API)
    declare("api", 8001)
    assert done(sync()) == [("register", API)]
    rows = {row.node: row for row in ObservedInstance.objects.filter(consul_id=API)}
    here = consul.agent_node().name
    assert {node: (row.sync_status, row.declared) for node, row in rows.items()} == {
        here: ("synced", True),
        "other": ("unmanaged", False),
    }
    for enable in (True, False):
        changed = set_maintenance("api", [API], enable=enable, reason="a new disk")
        assert (changed.done, dict(changed.refused)) == ((API,), {})
        health = "maintenance" if enable else "passing"
        assert ObservedInstance.objects.get(consul_id=API, node=here).health == health
        assert ObservedInstance.objects.get(consul_id=API, node="other").health == "passing"
    page = operator.get("/services/api/").content.decode()
    assert "10.0.0.9:80" in page
    assert page.count("as desired") <= 1


def test_declared_endpoint_that_a_stranger_serves_on_another_node_is_left(consul, elsewhere, declare, sync):
    elsewhere(API, Address="127.0.0.1", Port=8001)
    declare("api", 8001)
    result = sync()
    assert (done(result), result.conclusion) == ([], Conclusion.HELD)
    assert "at the same address and port" in Instance.objects.get().sync_reason


def test_released_instance_keeps_its_place_on_another_node_of_ours(consul, elsewhere, declare, sync):
    owner = read_owner()
    elsewhere(API, Address="127.0.0.1", Port=8001, Meta=owner.marks(Place("dc1", "other", API)))
    declare("api", 8001)
    sync()
    assert ObservedInstance.objects.get().owned
    assert release(Service.objects.all()).done == (API,)
    sync()
    row = ObservedInstance.objects.get()
    assert (row.owned, row.sync_status, row.sync_reason) == (False, "unmanaged", "released from this inventory")


def test_released_instance_is_not_pruned_by_the_agent_of_its_node(consul, declare, sync):
    declare("api", 8001)
    sync()
    meta = dict(consul.agent_instances()[API].meta)
    release(Service.objects.all())
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8001, check=NO_CHECK)
    consul.register(spec, marks={key: meta[key] for key in (META_OWNER, META_MARK)})
    assert done(sync(force=True)) == []
    assert API in registered(consul)
    declare("web", 8002)
    service = Service.objects.create(name="api", check_kind=Service.Check.NONE)
    Instance.objects.create(service=service, address="127.0.0.1", port=8001)
    sync()
    Instance.objects.filter(port=8001).delete()
    assert ("deregister", API) in done(sync(force=True))


# -- marks ------------------------------------------------------------------------------------------------------------


def test_copied_mark_is_in_doubt_and_never_pruned(consul, declare, sync):
    declare("api", 8001)
    sync()
    meta = dict(consul.agent_instances()[API].meta)
    copy = ServiceSpec(name="api", address="127.0.0.1", port=9, id="copy", check=NO_CHECK)
    consul.register(copy, marks={key: meta[key] for key in (META_OWNER, META_MARK)})
    before = registered(consul)
    result = sync(force=True)
    assert (done(result), result.conclusion) == ([], Conclusion.DOUBT)
    assert registered(consul) == before
    assert ObservedInstance.objects.get(consul_id="copy").sync_cause == "doubt"


def test_old_mark_of_a_claimed_instance_is_ours_and_rewritten_at_the_next_change(consul, declare, sync):
    service = declare("api", 8001)
    sync()
    spec = Instance.objects.get().spec()
    consul.register(spec, marks={META_OWNER: OWNER})
    assert done(sync()) == []
    assert META_MARK not in consul.agent_instances()[API].meta
    service.tags = ["new"]
    service.save()
    assert done(sync()) == [("update", API)]
    assert consul.agent_instances()[API].is_marked
    Service.objects.all().delete()
    assert done(sync(force=True)) == [("deregister", API)]


def test_old_mark_of_an_instance_that_was_never_declared_here_is_in_doubt(consul, sync):
    consul.register(ServiceSpec(name="api", address="127.0.0.1", port=9, check=NO_CHECK), marks={META_OWNER: OWNER})
    before = registered(consul)
    assert (done(sync(force=True)), registered(consul)) == ([], before)


# -- another inventory ------------------------------------------------------------------------------------------------


@pytest.fixture
def another_inventory(consul, declare, sync) -> Callable[[], str]:
    """`another_inventory()`: what is registered belongs to another inventory with our owner's name; its UUID."""

    def make() -> str:
        row = InventoryIdentity.objects.get(pk=1)
        Service.objects.all().delete()
        InventoryIdentity.objects.filter(pk=1).update(uuid=uuid4())
        return row.uuid.hex

    return make


def test_inventories_with_the_same_owner_leave_each_others_instances(consul, declare, sync, another_inventory):
    declare("api", 8001)
    declare("web", 8002)
    sync()
    another_inventory()
    before = registered(consul)
    declare("api", 8001, tags=["mine"])
    result = sync(force=True)
    assert (done(result), result.conclusion) == ([], Conclusion.HELD)
    assert registered(consul) == before
    row = Instance.objects.get()
    assert (row.sync_status, row.sync_cause) == ("out_of_sync", "foreign")
    refused = adopt(ObservedInstance.objects.filter(consul_id="web-127.0.0.1-8002")).refused
    assert "another inventory owns it" in refused["web-127.0.0.1-8002"]


def test_take_over_from_inventory_marks_only_what_is_declared(consul, declare, sync, another_inventory, capsys):
    declare("api", 8001)
    declare("web", 8002)
    sync()
    theirs = another_inventory()
    declare("api", 8001, tags=["mine"])
    sync()
    before = registered(consul)
    call_command("take_over_registry", "--from-inventory", theirs, "--dry-run")
    assert registered(consul) == before
    listed = capsys.readouterr().out
    assert API in listed
    assert '"mine"' in listed
    assert "web-127.0.0.1-8002" not in listed
    call_command("take_over_registry", "--from-inventory", theirs)
    instances = consul.agent_instances()
    assert instances[API].mark.inventory == read_owner().inventory
    assert instances["web-127.0.0.1-8002"].mark.inventory == theirs
    assert done(sync()) == []
    with pytest.raises(CommandError, match="nothing to take over"):
        call_command("take_over_registry", "--from-inventory", theirs)


def test_renamed_owner_keeps_everything_and_take_over_rewrites_the_marks(consul, declare, sync, settings):
    declare("api", 8001)
    sync()
    settings.REGISTRY = {"SYNC_ON_SAVE": "0", "OWNER": "renamed"}
    assert done(sync(force=True)) == []
    assert consul.agent_instances()[API].owner == OWNER
    call_command("take_over_registry", "--from-owner", OWNER)
    assert consul.agent_instances()[API].owner == "renamed"
    assert done(sync(force=True)) == []


def test_renamed_node_is_taken_over_by_its_former_name(consul, declare, sync):
    declare("api", 8001)
    sync()
    owner = read_owner()
    spec = Instance.objects.get().spec()
    consul.register(spec, marks=owner.marks(Place("dc1", "former", API)))
    assert sync(force=True).conclusion is Conclusion.DOUBT
    call_command("take_over_registry", "--from-node", "former")
    assert consul.agent_instances()[API].place != Place("dc1", "former", API)
    assert sync().conclusion is Conclusion.VERIFIED


# -- a restored database ----------------------------------------------------------------------------------------------


def restore(backup: dict[str, Any]) -> None:
    """Brings the declarations, their history and the identity back to what they were."""
    later = Instance.objects.exclude(consul_id__in=backup["ids"])
    Instance.history.filter(consul_id__in=later.values("consul_id")).delete()
    later._raw_delete(later.db)
    Service.objects.filter(instances=None)._raw_delete(later.db)
    Service.objects.update(tags=backup["tags"])
    InventoryIdentity.objects.filter(pk=1).update(revision=backup["revision"], newest_revision=0)


def test_restored_database_removes_and_overwrites_nothing_until_acknowledged(consul, declare, sync, capsys, operator):
    api = declare("api", 8001, tags=["old"])
    sync()
    backup = {"ids": [API], "tags": ["old"], "revision": read_owner().revision}
    declare("web", 8002)
    api.tags = ["new"]
    api.save()
    sync()
    restore(backup)
    before = registered(consul)

    result = sync()
    assert (done(result), result.conclusion, registered(consul)) == ([], Conclusion.DOUBT, before)
    assert "Consul knows newer declarations" in ConsulContact.objects.get().doubt
    assert "Consul knows newer declarations" in operator.get("/").content.decode()
    assert "Consul knows newer declarations" in Instance.objects.get().sync_reason
    Instance.objects.all().delete()
    assert (done(sync(force=True)), registered(consul)) == ([], before)
    declare("api2", 8003)
    assert done(sync()) == [("register", "api2-127.0.0.1-8003")]
    assert read_owner().revision == backup["revision"]

    Service.objects.filter(name="api").delete()
    declare("api", 8001, tags=["old"])
    call_command("take_over_registry", "--restored", "--dry-run")
    listed = capsys.readouterr().out
    assert API in listed
    assert "web-127.0.0.1-8002" in listed
    call_command("take_over_registry", "--restored")
    after = consul.agent_instances()
    assert after[API].tags == ("old",)
    assert after[API].mark.revision > Mark.parse(before[API][2][META_MARK]).revision
    assert done(sync(force=True)) == []
    assert "web-127.0.0.1-8002" in registered(consul)
    assert ConsulContact.objects.get().doubt == ""


@pytest.mark.parametrize("is_acknowledged", [False, True])
def test_released_instance_stays_released_when_an_older_database_is_restored(consul, declare, sync, is_acknowledged):
    declare("api", 8001, tags=["ours"])
    sync()
    service, instance, revision = Service.objects.get(), Instance.objects.get(), read_owner().revision
    assert release(Service.objects.all()).done == (API,)
    after = registered(consul)
    assert not {META_OWNER, META_MARK} & set(after[API][2])
    # Only the release is newer than the backup.
    ReleasedInstance.objects.all().delete()
    Service.objects.bulk_create([service])
    Instance.objects.bulk_create([instance])
    InventoryIdentity.objects.filter(pk=1).update(revision=revision, newest_revision=0)

    if is_acknowledged:
        call_command("take_over_registry", "--restored")
    result = sync(force=True)
    assert (done(result), result.conclusion, registered(consul)) == ([], Conclusion.DOUBT, after)
    assert "released after the backup" in Instance.objects.get().sync_reason


def test_released_instance_that_is_adopted_again_is_ours(consul, declare, sync):
    declare("api", 8001)
    sync()
    release(Service.objects.all())
    assert META_RELEASED in consul.agent_instances()[API].meta
    sync()
    assert adopt(ObservedInstance.objects.all()).done == (API,)
    assert done(sync()) == [("update", API)]
    assert META_RELEASED not in consul.agent_instances()[API].meta
    assert sync().conclusion is Conclusion.VERIFIED
