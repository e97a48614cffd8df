"""Syncs of a real database with a real agent."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import connection
from django.utils import timezone

from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec
from registry_admin.consul.marks import META_DIGEST, META_OWNER, META_SELF
from registry_admin.errors import ConsulUnavailableError, DatabaseUnavailableError, UnsafePlanError
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, Service, SyncRun, SyncStatus
from registry_admin.inventory.selectors import freshness
from registry_admin.inventory.sync import on_commit
from registry_admin.reconcile.conclusion import Conclusion
from tests.fixtures.django import OWNER
from tests.parts import refusing_port, wait_until

pytestmark = pytest.mark.django_db

NO_CHECK = CheckSpec(kind=CheckKind.NONE)


def spec(instance_id: str = "stranger", **fields) -> ServiceSpec:
    return ServiceSpec(
        **{"name": "foreign", "address": "127.0.0.1", "port": 9, "id": instance_id, "check": NO_CHECK} | fields
    )


def statuses() -> dict[str, str]:
    return dict(Instance.objects.values_list("consul_id", "sync_status"))


def done(outcome) -> list[tuple[str, str]]:
    assert all(result.ok for result in outcome.results), outcome.failures
    return [(str(result.item.action), result.item.id) for result in outcome.results]


# -- changes ----------------------------------------------------------------------------------------------------------


def test_declared_instances_are_registered_and_second_sync_is_empty(consul, declare, sync):
    declare("api", 8001, 8002, tags=["v1"], meta={"team": "blue"})
    outcome = sync()
    assert outcome.ok
    assert done(outcome) == [("register", "api-127.0.0.1-8001"), ("register", "api-127.0.0.1-8002")]
    actual = consul.agent_instances()["api-127.0.0.1-8001"]
    assert (actual.tags, actual.user_meta, actual.owner) == (("v1",), {"team": "blue"}, OWNER)
    assert set(statuses().values()) == {SyncStatus.SYNCED}
    service = Service.objects.get()
    assert (service.sync_status, service.health) == ("synced", "passing")
    assert sync().results == ()
    assert SyncRun.objects.count() == 1


def test_sync_without_changes_writes_only_the_contact(consul, declare, sync, count_queries):
    declare("api", 8001, 8002)
    consul.register(spec(), marks={})
    sync()
    sync()
    (write,) = mirror_writes(count_queries(lambda: sync(trigger="watch")))
    assert "inventory_consulcontact" in write


def mirror_writes(statements: list[str]) -> list[str]:
    """Returns the statements that write, but for the counters of the metrics."""
    return [sql for sql in statements if not sql.startswith("SELECT") and "inventory_eventcounter" not in sql]


def test_changed_declaration_is_updated_and_recorded_by_field(consul, declare, sync):
    service = declare("api", 8001)
    sync()
    service.tags = ["new"]
    service.save()
    assert done(sync()) == [("update", "api-127.0.0.1-8001")]
    assert consul.agent_instances()["api-127.0.0.1-8001"].tags == ("new",)
    run = SyncRun.objects.first()
    assert (run.outcome, run.updated) == ("done", 1)
    assert run.items[0]["changes"] == [{"field": "tags", "before": [], "after": ["new"]}]


def test_deleted_service_is_deregistered_and_removed_from_the_mirror(consul, declare, sync):
    declare("api", 8001)
    declare("web", 8002)
    sync()
    Service.objects.get(name="api").delete()
    assert done(sync()) == [("deregister", "api-127.0.0.1-8001")]
    assert consul.agent_instances().keys() == {"web-127.0.0.1-8002"}
    assert set(ObservedInstance.objects.values_list("consul_id", flat=True)) == {"web-127.0.0.1-8002"}


@pytest.mark.parametrize("what", ["service", "instance"])
def test_disabled_instance_is_deregistered_and_stays_declared(consul, declare, sync, what):
    declare("api", 8001)
    sync()
    row = (Service if what == "service" else Instance).objects.get()
    row.enabled = False
    row.save()
    assert done(sync()) == [("deregister", "api-127.0.0.1-8001")]
    assert consul.agent_instances() == {}
    assert statuses() == {"api-127.0.0.1-8001": SyncStatus.DISABLED}
    assert sync().results == ()
    (Service if what == "service" else Instance).objects.update(enabled=True)
    assert done(sync()) == [("register", "api-127.0.0.1-8001")]


def test_renamed_service_keeps_its_instances(consul, declare, sync):
    service = declare("old", 8001)
    sync()
    service.name = "new"
    service.save()
    assert done(sync(only={"new"})) == [("update", "old-127.0.0.1-8001")]
    assert consul.agent_instances()["old-127.0.0.1-8001"].service == "new"


def test_moved_instance_is_registered_anew_and_the_old_one_deregistered_afterwards(consul, declare, sync):
    declare("api", 8001)
    sync()
    instance = Instance.objects.get()
    instance.port = 8002
    instance.save()
    assert done(sync(only={"api"})) == [("register", "api-127.0.0.1-8002")]
    wait_until(lambda: len(consul.instances("api", passing=True).data) == 2, what="both in the catalog")
    assert done(sync(only={"api"})) == [("deregister", "api-127.0.0.1-8001")]


def test_agent_that_lost_its_state_is_restored_by_a_single_sync(own_agent, declare, sync):
    declare("api", *range(8001, 8021))
    sync()
    own_agent.stop()
    own_agent.start()
    assert own_agent.request("GET", "/v1/agent/services") == {}
    outcome = sync()
    assert outcome.plan.summary == "Plan: 20 to register, 0 to update, 0 to deregister, 0 left alone"
    assert len(own_agent.request("GET", "/v1/agent/services")) == 20
    assert {result.item.reason for result in outcome.results} == {"not in Consul any more"}


def test_instance_edited_by_hand_is_restored_and_the_edit_recorded(consul, declare, sync):
    declare("api", 8001)
    sync()
    consul.register(spec("api-127.0.0.1-8001", name="api", port=8001, tags=("by-hand",)), marks={META_OWNER: OWNER})
    assert done(sync()) == [("update", "api-127.0.0.1-8001")]
    assert consul.agent_instances()["api-127.0.0.1-8001"].tags == ()
    assert SyncRun.objects.first().items[0]["changes"] == [{"field": "tags", "before": ["by-hand"], "after": []}]


def test_instance_removed_by_hand_is_registered_again(consul, declare, sync):
    declare("api", 8001)
    sync()
    consul.deregister("api-127.0.0.1-8001")
    assert done(sync()) == [("register", "api-127.0.0.1-8001")]


def test_owner_mark_removed_by_hand_is_restored(consul, declare, sync):
    declare("api", 8001)
    sync()
    body = Instance.objects.get().spec()
    consul.register(body, marks={})
    assert done(sync()) == [("update", "api-127.0.0.1-8001")]
    assert consul.agent_instances()["api-127.0.0.1-8001"].owner == OWNER


# -- foreign instances ------------------------------------------------------------------------------------------------


def test_foreign_instance_is_unmanaged_and_survives_sync_and_prune(consul, consul_agent, declare, sync):
    consul_agent.request("PUT", "/v1/agent/service/register", body={"ID": "theirs", "Name": "theirs", "Port": 1})
    consul.register(spec("another-s"), marks={META_OWNER: "another-inventory"})
    before = consul.agent_instances()
    declare("api", 8001)
    sync()
    sync(force=True, prune=True)
    sync(only={"theirs", "foreign", "api"}, force=True)
    Service.objects.all().delete()
    sync(force=True, prune=True)
    assert consul.agent_instances() == before
    mirrored = {row.consul_id: (row.sync_status, row.sync_reason) for row in ObservedInstance.objects.all()}
    assert mirrored == {
        "theirs": ("unmanaged", "registered by someone else and not declared"),
        "another-s": ("unmanaged", "owned by 'another-inventory'"),
    }


def test_foreign_instance_with_a_declared_id_is_unchanged_and_its_difference_shown(consul, declare, sync):
    consul.register(spec("api-127.0.0.1-8001", name="theirs"), marks={})
    declare("api", 8001)
    outcome = sync()
    assert outcome.results == ()
    assert consul.agent_instances()["api-127.0.0.1-8001"].service == "theirs"
    row = Instance.objects.get()
    assert (row.sync_status, row.claimed_node) == ("out_of_sync", "")
    assert {"field": "port", "before": 9, "after": 8001} in row.differences


@pytest.mark.parametrize("what", ["service", "instance"])
def test_foreign_instance_with_the_id_of_a_disabled_one_is_not_removed(consul, declare, sync, what):
    declare("api", 8001)
    sync()
    (Service if what == "service" else Instance).objects.update(enabled=False)
    sync(force=True)
    consul.register(spec("api-127.0.0.1-8001", name="theirs"), marks={})
    assert sync().results == ()
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001"}


def test_foreign_instance_with_the_new_id_of_a_declared_one_is_not_overwritten(consul, declare, sync):
    consul.register(spec("theirs"), marks={})
    declare("api", 8001)
    declare("web", 8002)
    sync()
    instance = Instance.objects.get(service__name="api")
    assert instance.claimed_node
    instance.consul_id = "theirs"
    instance.save()
    result = sync()
    assert (result.results, result.conclusion) == ((), Conclusion.HELD)
    assert consul.agent_instances()["theirs"].service == "foreign"
    assert "api-127.0.0.1-8001" in consul.agent_instances()


def test_foreign_instance_whose_id_differs_in_case_only_stays_in_the_catalog(consul, declare, sync):
    consul.register(spec("API-127.0.0.1-8001"), marks={})
    wait_until(lambda: consul.instances("foreign").data, what="it in the catalog")
    declare("api", 8001)
    assert sync().results == ()
    assert statuses() == {"api-127.0.0.1-8001": SyncStatus.MISSING}
    assert "upper and lower case" in Instance.objects.get().sync_reason


HOSTILE = [
    {"ID": "x" * 3000, "Name": "n" * 3000, "Tags": ["t" * 3000]},
    {"ID": "n\x00ul", "Name": "na\x00me", "Tags": ["a\x00b"], "Meta": {"key": "va\x00lue"}},
    {"ID": "a/b", "Name": "..", "Port": 70000},
    {"ID": "minus", "Name": "\u202egnp", "Port": -1, "Address": "\x00"},
    {"ID": "checked", "Name": "x", "Checks": [{"Name": "\x00", "CheckID": "i\x00d", "TTL": "1h"}]},
    {"ID": "<script>alert(1)</script>", "Name": "</textarea><script>"},
    {"ID": "owned-by-nobody", "Name": "x", "Meta": {META_OWNER: "\x00" * 500}},
]


def test_hostile_foreign_instances_are_mirrored_and_declared_ones_synced(own_agent, declare, sync, count_queries):
    for body in HOSTILE:
        own_agent.request("PUT", "/v1/agent/service/register", body=body)
    declare("api", 8001)
    assert done(sync()) == [("register", "api-127.0.0.1-8001")]
    assert sync().ok
    assert statuses() == {"api-127.0.0.1-8001": SyncStatus.SYNCED}
    strangers = ObservedInstance.objects.exclude(consul_id__startswith="api")
    assert strangers.count() == len(HOSTILE)
    assert set(strangers.values_list("sync_status", flat=True)) == {"unmanaged"}
    assert len(mirror_writes(count_queries(lambda: sync(trigger="watch")))) == 1
    own_agent.stop()
    own_agent.start()
    sync()
    assert ObservedInstance.objects.count() == 1


def test_hostile_instance_with_a_declared_id_does_not_block_others(consul, consul_agent, declare, sync):
    body = {"ID": "api-127.0.0.1-8001", "Name": "api\x00", "Tags": ["a\x00b"], "Meta": {"k": "\x00"}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    declare("api", 8001, 8002)
    assert done(sync()) == [("register", "api-127.0.0.1-8002")]
    assert statuses() == {"api-127.0.0.1-8001": "out_of_sync", "api-127.0.0.1-8002": "synced"}
    Instance.objects.update(claimed_node=consul.agent_node().name)
    assert done(sync(expected_removals=1)) == [("update", "api-127.0.0.1-8001")]


# -- self-registered instances ----------------------------------------------------------------------------------------


def register_itself(consul, port: int = 8001, **fields) -> None:
    registration = spec(f"api-127.0.0.1-{port}", name="api", port=port, **fields)
    consul.register(registration, marks={META_SELF: registration.digest})


def test_self_registered_instance_as_declared_is_synced_and_unchanged(consul, declare, sync):
    register_itself(consul)
    declare("api", 8001)
    assert sync().results == ()
    assert statuses() == {"api-127.0.0.1-8001": "synced"}
    assert ObservedInstance.objects.get().registered_itself


def test_self_registered_instance_without_declaration_is_unmanaged(consul, sync):
    register_itself(consul)
    sync(force=True)
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001"}
    assert ObservedInstance.objects.get().sync_status == "unmanaged"


def test_departed_instance_is_registered_only_when_restored(consul, declare, sync):
    declare("api", 8001)
    register_itself(consul)
    sync()
    consul.deregister("api-127.0.0.1-8001")
    for _ in range(3):
        assert sync().results == ()
        assert statuses() == {"api-127.0.0.1-8001": "missing"}
    assert "left by itself" in Instance.objects.get().sync_reason
    assert done(sync(only={"api"}, restore={"api"})) == [("register", "api-127.0.0.1-8001")]
    assert sync().results == ()
    assert statuses() == {"api-127.0.0.1-8001": "synced"}


def test_restore_of_a_service_leaves_other_services_departed(consul, declare, sync):
    declare("api", 8001)
    declare("web", 8002)
    register_itself(consul)
    registration = spec("web-127.0.0.1-8002", name="web", port=8002)
    consul.register(registration, marks={META_SELF: registration.digest})
    sync()
    consul.deregister("api-127.0.0.1-8001")
    consul.deregister("web-127.0.0.1-8002")
    sync()
    assert done(sync(only={"api"}, restore={"api"})) == [("register", "api-127.0.0.1-8001")]
    assert sync().results == ()
    assert statuses()["web-127.0.0.1-8002"] == "missing"


def test_departed_instance_that_is_moved_is_registered_at_its_new_place(consul, declare, sync):
    declare("api", 8001)
    register_itself(consul)
    sync()
    consul.deregister("api-127.0.0.1-8001")
    sync()
    instance = Instance.objects.get()
    instance.port = 8002
    instance.save()
    assert done(sync()) == [("register", "api-127.0.0.1-8002")]


def test_departed_instance_that_registers_itself_again_is_synced(consul, declare, sync):
    declare("api", 8001)
    register_itself(consul)
    sync()
    consul.deregister("api-127.0.0.1-8001")
    sync()
    register_itself(consul)
    assert sync().results == ()
    assert statuses() == {"api-127.0.0.1-8001": "synced"}
    assert not Instance.objects.get().departed


def test_self_registered_instance_that_differs_is_updated_and_keeps_its_mark(consul, declare, sync):
    declare("api", 8001, tags=["declared"])
    register_itself(consul, tags=("own",))
    mark = consul.agent_instances()["api-127.0.0.1-8001"].meta[META_SELF]
    assert done(sync()) == [("update", "api-127.0.0.1-8001")]
    now = consul.agent_instances()["api-127.0.0.1-8001"]
    assert (now.tags, now.meta[META_SELF]) == (("declared",), mark)


def test_self_registered_instance_stays_after_its_declaration_is_deleted(consul, declare, sync):
    declare("api", 8001, tags=["declared"])
    register_itself(consul, tags=("own",))
    sync()
    Service.objects.all().delete()
    sync(force=True)
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001"}


# -- safety -----------------------------------------------------------------------------------------------------------


def test_unsafe_plan_applies_all_but_removals_and_names_those(consul, declare, sync):
    declare("api", *range(8001, 8011))
    declare("web", 8020)
    sync()
    Service.objects.get(name="api").delete()
    declare("new", 8030)
    outcome = sync()
    assert isinstance(outcome.error, UnsafePlanError)
    assert len(outcome.error.would_remove) == 10
    assert done(outcome) == [("register", "new-127.0.0.1-8030")]
    assert len(consul.agent_instances()) == 12
    run = SyncRun.objects.first()
    assert (run.outcome, run.registered, run.deregistered) == ("refused", 1, 0)
    assert "The brake holds 10 of 10 removals" in run.message
    assert done(sync(force=True)) == [("deregister", f"api-127.0.0.1-{port}") for port in range(8001, 8011)]


def test_sync_without_declarations_removes_no_instance(consul, declare, sync):
    declare("api", 8001)
    sync()
    Service.objects.all().delete()
    assert isinstance(sync().error, UnsafePlanError)
    assert len(consul.agent_instances()) == 1
    assert sync(prune=False).ok
    assert len(consul.agent_instances()) == 1


def test_scoped_sync_changes_only_its_services_and_mirrors_all(consul, declare, sync):
    declare("api", 8001)
    declare("web", 8002)
    outcome = sync(only={"api"})
    assert done(outcome) == [("register", "api-127.0.0.1-8001")]
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001"}
    assert statuses() == {"api-127.0.0.1-8001": "synced", "web-127.0.0.1-8002": "missing"}
    assert SyncRun.objects.get().scope == ["api"]


# -- outages ----------------------------------------------------------------------------------------------------------


def test_sync_with_consul_away_is_recorded_as_failed_and_the_mirror_is_stale(consul, declare, sync, use_consul):
    service = declare("api", 8001)
    sync()
    assert freshness().is_current
    use_consul(SimpleNamespace(host="127.0.0.1", port=refusing_port()))

    outcome = sync()

    assert isinstance(outcome.error, ConsulUnavailableError)
    assert outcome.is_unavailable
    assert not outcome.ok
    known = freshness()
    assert not known.is_current
    assert "refused the connection" in known.problem
    assert known.seen_at is not None
    assert SyncRun.objects.first().outcome == "failed"
    assert ObservedInstance.objects.filter(service_name=service.name).exists()


def test_contact_records_start_and_end_of_an_outage(consul, consul_agent, declare, sync, use_consul):
    use_consul(SimpleNamespace(host="127.0.0.1", port=refusing_port()))
    sync()
    since = ConsulContact.objects.get().since
    sync()
    assert ConsulContact.objects.get().since == since
    use_consul(consul_agent)
    sync()
    contact = ConsulContact.objects.get()
    assert contact.reachable
    assert contact.since > since
    assert contact.problem == ""


def test_sync_with_frozen_consul_times_out_and_removes_no_instance(own_agent, declare, sync, settings):
    settings.REGISTRY = {"CONSUL_TIMEOUT": "0.3s"}
    declare("api", 8001)
    sync()
    own_agent.freeze()
    outcome = sync()
    own_agent.thaw()
    assert outcome.is_unavailable
    assert "didn't answer in time" in str(outcome.error)
    assert sync().results == ()


def test_sync_that_loses_consul_midway_is_recorded_with_its_progress(consul, declare, sync, proxied_consul):
    declare("api", *range(8001, 8041))
    outcome = sync(on_result=lambda _result: proxied_consul.cut())
    assert outcome.is_unavailable
    assert outcome.failures
    run = SyncRun.objects.get()
    assert run.outcome == "failed"
    assert run.registered >= 1
    assert run.registered + run.failed == len(run.items) == 40
    assert not freshness().is_current
    assert len(consul.agent_instances()) >= run.registered
    proxied_consul.restore()
    assert sync().ok
    assert len(consul.agent_instances()) == 40


def test_sync_that_loses_consul_before_writing_leaves_a_stale_mirror(declare, sync, proxied_consul):
    declare("api", 8001)
    outcome = sync(on_plan=lambda _plan: proxied_consul.cut())
    assert outcome.is_unavailable
    assert not freshness().is_current


def test_repeated_failure_of_a_watcher_is_recorded_once(sync):
    for _ in range(3):
        sync(trigger=SyncRun.Trigger.WATCH)
    assert SyncRun.objects.count() == 1
    sync(trigger=SyncRun.Trigger.COMMAND)
    assert SyncRun.objects.count() == 2


def test_second_outage_of_a_watcher_is_recorded_separately(consul, consul_agent, sync, use_consul):
    nowhere = SimpleNamespace(host="127.0.0.1", port=refusing_port())
    for where in (nowhere, nowhere, consul_agent, nowhere, nowhere):
        use_consul(where)
        sync(trigger=SyncRun.Trigger.WATCH)
    assert SyncRun.objects.count() == 2


def test_item_failing_in_every_watcher_sync_is_recorded_once_until_another_change(consul, declare, sync, monkeypatch):
    service = declare("api")
    with monkeypatch.context() as patch:
        patch.setenv("CONSUL_HTTP_ADDR", f"127.0.0.1:{refusing_port()}")
        Instance.objects.create(service=service, address="127.0.0.1", port=consul.config.port)
    for _ in range(3):
        assert len(sync(trigger=SyncRun.Trigger.WATCH).failures) == 1
    assert SyncRun.objects.count() == 1
    Instance.objects.create(service=service, address="127.0.0.1", port=8001)
    sync(trigger=SyncRun.Trigger.WATCH)
    assert [run.registered for run in SyncRun.objects.all()] == [1, 0]


def test_mirror_older_than_stale_after_is_not_current(consul, sync, settings):
    sync()
    later = timezone.now() + timedelta(seconds=91)
    assert freshness().is_current
    assert not freshness(later).is_current
    assert "watcher" in freshness(later).problem
    settings.REGISTRY = {"STALE_AFTER": "2m"}
    assert freshness(later).is_current


def test_mirror_before_the_first_snapshot_is_not_current():
    assert not freshness().is_current
    assert "not been looked at yet" in freshness().problem


def test_failed_item_is_recorded_and_others_are_applied(consul, declare, sync, monkeypatch):
    declare("api", 8001)
    with monkeypatch.context() as patch:  # as it would be with another address of Consul when it was declared
        patch.setenv("CONSUL_HTTP_ADDR", f"127.0.0.1:{refusing_port()}")
        Instance.objects.create(service=Service.objects.get(), address="127.0.0.1", port=consul.config.port)
    outcome = sync()
    assert [result.ok for result in outcome.results].count(True) == 1
    assert len(outcome.failures) == 1
    assert not outcome.ok
    run = SyncRun.objects.get()
    assert (run.outcome, run.registered, run.failed) == ("partial", 1, 1)


# -- invalid rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"consul_id": "../../leave"}, {"address": "evil@host"}, {"port": 70000}, {"weight": 0},
        {"extra_meta": ["list"]}, {"extra_meta": {"a": 1}},
        {"extra_tags": 7}, {"consul_id": ""},
    ],
)  # fmt: skip
def test_invalid_instance_is_reported_and_does_not_block_others(consul, declare, sync, row):
    service = declare("api", 8001)
    Instance.objects.bulk_create(
        [Instance(**{"service": service, "address": "127.0.0.1", "port": 8002, "consul_id": "broken"} | row)]
    )
    outcome = sync()
    assert done(outcome) == [("register", "api-127.0.0.1-8001")]
    assert list(outcome.invalid) == [row.get("consul_id", "broken")]
    assert not outcome.ok
    invalid = Instance.objects.exclude(port=8001).get()
    assert invalid.sync_status == "unknown"
    assert invalid.sync_reason


@pytest.mark.parametrize(
    "column", [{"name": "a/b"}, {"check_kind": "script"}, {"check_interval": "1ns"}, {"meta": ["x"]}, {"tags": 5}]
)
def test_invalid_service_is_reported_and_does_not_block_others(consul, declare, sync, column):
    declare("api", 8001)
    declare("web", 8002)
    sync()
    Service.objects.filter(name="api").update(**column)
    outcome = sync()
    assert outcome.results == ()  # neither updated nor, being declared, taken out
    assert list(outcome.invalid) == ["api-127.0.0.1-8001"]
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001", "web-127.0.0.1-8002"}
    assert ObservedInstance.objects.get(consul_id="api-127.0.0.1-8001").sync_status == "unknown"


def test_scoped_sync_ignores_invalid_rows_of_other_services(consul, declare, sync):
    declare("api", 8001)
    declare("web", 8002)
    Instance.objects.filter(port=8002).update(port=70000)
    assert sync(only={"api"}).ok
    assert not sync(only={"web"}).ok


# -- mirror -----------------------------------------------------------------------------------------------------------


def test_health_is_mirrored_with_output_and_time(consul, declare, sync):
    declare("api", 8001, check_kind=Service.Check.TTL)
    sync()
    assert Service.objects.get().health == "unknown"  # until its first heartbeat
    before = ObservedInstance.objects.get()
    consul.update_ttl("api-127.0.0.1-8001:ttl", "passing", output="all fine")
    sync()
    after = ObservedInstance.objects.get()
    assert (after.health, after.checks[0]["output"]) == ("passing", "all fine")
    assert after.health_since > before.health_since
    assert after.first_seen == before.first_seen
    assert Service.objects.get().health == "passing"
    consul.update_ttl("api-127.0.0.1-8001:ttl", "passing", output="still")
    sync()
    assert ObservedInstance.objects.get().health_since == after.health_since


def test_maintenance_is_mirrored_and_survives_an_update(consul, declare, sync):
    service = declare("api", 8001)
    sync()
    consul.set_maintenance("api-127.0.0.1-8001", enable=True, reason="new disk")
    service.tags = ["new"]
    service.save()
    sync()
    row = ObservedInstance.objects.get()
    assert (row.health, row.tags) == ("maintenance", ["new"])
    assert "new disk" in row.checks[0]["output"]


def test_service_status_is_the_most_severe_of_its_instances(consul, declare, sync):
    consul.register(spec("api-127.0.0.1-8002", name="theirs"), marks={})
    declare("api", 8001, 8002)
    declare("empty")
    sync()
    assert dict(Service.objects.values_list("name", "sync_status")) == {"api": "out_of_sync", "empty": "synced"}


@pytest.mark.parametrize("changing", [False, True])
def test_query_count_is_independent_of_row_count(consul, declare, sync, count_queries, changing):
    def queries_with(name: str, ports: range) -> int:
        declare(name, *ports)
        if not changing:
            sync()
        return len(count_queries(sync))

    declare("first", 8001)
    sync()
    few = queries_with("few", range(8100, 8102))
    assert queries_with("many", range(8200, 8240)) == few


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite knows one writer at a time anyway")
def test_concurrent_syncs_lock_the_contact_before_writing_rows(consul, declare, sync, count_queries):
    declare("api", 8001)
    sync()
    Service.objects.update(tags=["new"], sync_status="unknown")
    statements = count_queries(sync)
    lock = next(number for number, sql in enumerate(statements) if sql.endswith("FOR UPDATE"))
    writes = [(number, sql) for number, sql in enumerate(statements) if sql.startswith("UPDATE")]
    writes = [(number, sql) for number, sql in writes if "inventory_inventoryidentity" not in sql]  # of its own
    assert "inventory_consulcontact" in statements[lock]
    assert writes
    assert lock < writes[0][0]


# -- database ---------------------------------------------------------------------------------------------------------


def test_database_fault_is_raised_as_registry_error_with_advice(consul, sync):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE inventory_instance RENAME TO moved_away")
    with pytest.raises(DatabaseUnavailableError, match="migrate"):
        sync()


def test_set_enabled_returns_the_number_of_changed_services(declare):
    declare("api", 8001)
    declare("web", 8002, enabled=False)
    assert on_commit.set_enabled(Service.objects.all(), enabled=True) == 1
    assert on_commit.set_enabled(Service.objects.all(), enabled=True) == 0
    assert set(Service.objects.values_list("enabled", flat=True)) == {True}


def test_digest_in_consul_equals_that_of_the_declaration(consul, declare, sync):
    declare("api", 8001)
    sync()
    assert consul.agent_instances()["api-127.0.0.1-8001"].meta[META_DIGEST] == Instance.objects.get().spec().digest
