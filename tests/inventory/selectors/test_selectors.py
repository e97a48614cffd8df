"""Selectors: declarations, completeness of a snapshot, recent health, and the status of the lease."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.utils import timezone

from registry_admin.consul import Owner
from registry_admin.consul.marks import META_OWNER
from registry_admin.consul.snapshot import Snapshot
from registry_admin.consul.types import ServiceInstance
from registry_admin.inventory import selectors
from registry_admin.inventory.models import (
    ConsulContact,
    EvictionHalt,
    HealthTransition,
    Instance,
    Lease,
    ObservationGap,
    ObservedInstance,
    Service,
)  # fmt: skip
from registry_admin.inventory.selectors import read_inventory
from tests.fixtures.django import OWNER

pytestmark = pytest.mark.django_db

ID = "api-127.0.0.1-8001"
US = Owner(name=OWNER, inventory="a" * 32, revision=5)


def snapshot_of(*instance_ids: str, node_id: str = "1", elsewhere: tuple[str, ...] = (), **fields: Any) -> Snapshot:
    def instance(key: str, node: str) -> ServiceInstance:
        return ServiceInstance(service="api", id=key, address="127.0.0.1", port=1, node=node, meta={META_OWNER: OWNER})

    return Snapshot(
        node="one", node_id=node_id, local={key: instance(key, "one") for key in instance_ids},
        remote=tuple(instance(key, "two") for key in elsewhere), **fields,
    )  # fmt: skip


def inventory_of(snapshot: Snapshot, **options: Any) -> selectors.Inventory:
    return read_inventory(snapshot, US, **options)


def mirrored(consul_id: str = ID, **fields: Any) -> ObservedInstance:
    values = {"node": "one", "service_name": "api", "port": 1, "health": "passing", "sync_status": "synced"}
    return ObservedInstance.objects.create(**values | {"consul_id": consul_id} | fields)


def seconds_ago(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


# -- the declared side ------------------------------------------------------------------------------------------------


def test_read_inventory_makes_spec_from_each_column(declare):
    service = declare(
        "api", tags=["b", "a"], meta={"team": "blue"}, check_kind="http", check_path="/up", check_scheme="https",
        check_interval="7s", check_timeout="2s", deregister_after="40s",
    )  # fmt: skip
    instance = Instance.objects.create(
        service=service,
        address="10.0.0.1",
        port=80,
        weight=5,
        extra_tags=["c"],
        extra_meta={"zone": "z"},
        consul_id="me",
    )
    Instance.objects.update(claimed_node="one", applied_digest="abc")
    (declared,) = inventory_of(snapshot_of()).declared
    assert declared.spec == instance.spec()
    assert (declared.enabled, bool(declared.claim), declared.applied_digest, declared.evicted_reason) == (
        True,
        True,
        "abc",
        "",
    )


def test_read_inventory_reuses_objects_of_unchanged_rows(declare):
    declare("api", 8001)
    declare("web", 8002)
    first = {declared.spec.id: declared for declared in inventory_of(snapshot_of()).declared}
    Service.objects.filter(name="web").update(tags=["new"])
    second = {declared.spec.id: declared for declared in inventory_of(snapshot_of()).declared}
    assert second[ID] is first[ID]
    assert second["web-127.0.0.1-8002"].spec.tags == ("new",)
    Instance.objects.update(claimed_node="one")
    third = {declared.spec.id: declared for declared in inventory_of(snapshot_of()).declared}
    assert (bool(third[ID].claim), third[ID].spec is first[ID].spec) == (True, True)
    Service.objects.filter(name="api").update(enabled=False)
    assert {declared.spec.id: declared.enabled for declared in inventory_of(snapshot_of()).declared}[ID] is False


def test_read_inventory_takes_one_query(declare, django_assert_num_queries):
    declare("api", *range(8001, 8011))
    declare("web", 8020)
    snapshot = snapshot_of(*Instance.objects.values_list("consul_id", flat=True))
    with django_assert_num_queries(1):
        assert len(inventory_of(snapshot).declared) == 11


def test_inventory_excludes_released_and_invalid_instances(declare):
    declare("api", 8001, 8002)
    Instance.objects.filter(port=8002).update(released=True)
    Instance.objects.filter(port=8001).update(weight=0)
    snapshot = snapshot_of(ID, "api-127.0.0.1-8002", "stranger", elsewhere=(ID, "far"))
    inventory = inventory_of(snapshot)
    assert (inventory.declared, list(inventory.invalid)) == ((), [ID])
    compared = inventory.without_excluded(snapshot)
    assert (list(compared.local), [instance.id for instance in compared.remote]) == (["stranger"], ["far"])


@pytest.mark.parametrize("node", ["one", "two"])
def test_absent_self_registered_instance_is_departed(declare, node):
    declare("api", 8001)
    mirrored(node=node, registered_itself=True)
    assert [declared.departed for declared in inventory_of(snapshot_of()).declared] == [True]
    assert [declared.departed for declared in inventory_of(snapshot_of(), restore={"api"}).declared] == [False]
    assert [declared.departed for declared in inventory_of(snapshot_of(ID)).declared] == [False]
    assert [declared.departed for declared in inventory_of(snapshot_of(elsewhere=(ID,))).declared] == [False]


# -- evicted ----------------------------------------------------------------------------------------------------------


def test_evicted_reason_lasts_until_instance_is_registered_or_restored(declare):
    declare("api", 8001)
    Instance.objects.update(evicted_at=timezone.now(), evicted_reason="dead", claimed_node="one")

    def evicted(*registered: str, **options: Any) -> tuple[str, bool]:
        (declared,) = inventory_of(snapshot_of(*registered), **options).declared
        return declared.evicted_reason, declared.recovered

    assert evicted() == ("dead", False)
    assert evicted(recovered={ID}) == ("dead", True)
    assert evicted(ID, recovered={ID}) == ("", False)
    assert evicted(restore={"api"}) == ("", False)


@pytest.mark.parametrize(
    ("mirror", "row", "service", "taken_out"),
    [
        ({}, {}, {}, True),
        ({"health": "warning"}, {}, {}, False),
        ({"node": "two"}, {}, {}, False),
        ({"health_since": 20}, {}, {}, False),
        ({}, {"claimed_node": ""}, {}, False),
        ({}, {"enabled": False}, {}, False),
        ({}, {}, {"deregister_after": ""}, False),
        ({}, {}, {"deregister_after": "10m"}, False),
        ({"registered_itself": True}, {}, {}, True),
    ],
)
def test_instance_removed_by_consul_is_evicted(declare, mirror, row, service, taken_out):
    declare("api", 8001, check_kind="ttl", **service)
    Instance.objects.update(**{"claimed_node": "one"} | row)
    since = seconds_ago(mirror.pop("health_since", 95))
    checks = [{"id": "1", "name": "c", "status": "critical", "output": "refused"}]
    mirrored(**{"health": "critical", "health_since": since, "checks": checks} | mirror)
    inventory = inventory_of(snapshot_of("other"))
    (declared,) = inventory.declared
    assert bool(declared.evicted_reason) is taken_out
    if taken_out:
        assert inventory.removed_by_consul == {ID: declared.evicted_reason}
        assert declared.evicted_reason == f"Consul took it out, critical since {since:%Y-%m-%d %H:%M:%S} UTC: refused"
        assert not declared.departed


def test_instance_lost_with_agent_state_is_not_evicted(declare):
    declare("api", 8001)
    Instance.objects.update(claimed_node="one")
    mirrored(health="critical", health_since=seconds_ago(300))
    ConsulContact.objects.create(pk=1, node="one", node_id="1")
    assert inventory_of(snapshot_of(node_id="2")).declared[0].evicted_reason == ""
    assert inventory_of(snapshot_of(node_id="1")).declared[0].evicted_reason != ""


# -- completeness of a snapshot ----------------------------------------------------------------------------------------


def test_agent_lost_state_with_another_node_id():
    ConsulContact.objects.create(pk=1, node="one", node_id="1")
    assert not selectors.agent_lost_state(snapshot_of(node_id="1"), US)
    assert selectors.agent_lost_state(snapshot_of(node_id="2"), US)
    ConsulContact.objects.update(node="another agent's")
    assert not selectors.agent_lost_state(snapshot_of(node_id="2"), US)


@pytest.mark.parametrize(("count", "lost"), [(3, False), (4, True)])
def test_agent_lost_state_when_many_owned_instances_are_absent(count, lost):
    ConsulContact.objects.create(pk=1, node="one", node_id="1")
    for number in range(count):
        mirrored(f"i{number}", owned=True)
        mirrored(f"other-{number}", owner="other")
    assert selectors.agent_lost_state(snapshot_of(), US) is lost
    assert not selectors.agent_lost_state(snapshot_of("i0"), US)


def test_incomplete_reason_of_filtered_snapshot_counts_missing_owned_instances():
    mirrored("i1", owned=True)
    mirrored("i2", owned=True)
    mirrored("theirs", owner="other")
    assert "1 instance(s) of ours" in selectors.incomplete_reason(snapshot_of("i1", is_filtered=True))
    assert not selectors.incomplete_reason(snapshot_of("i1", "i2", is_filtered=True))


@pytest.mark.parametrize(("count", "node_id", "incomplete"), [(4, "1", True), (3, "1", False), (4, "2", False)])
def test_incomplete_reason_of_empty_snapshot_after_many_instances(count, node_id, incomplete):
    ConsulContact.objects.create(pk=1, node="one", node_id="1")
    for number in range(count):
        mirrored(f"i{number}")
        mirrored(f"i{number}", node="two")
    assert bool(selectors.incomplete_reason(snapshot_of(node_id=node_id))) is incomplete
    assert not selectors.incomplete_reason(snapshot_of("i1", node_id=node_id))


# -- recent health -----------------------------------------------------------------------------------------------------


def test_critical_since_is_by_instance_of_the_node():
    since = seconds_ago(50)
    mirrored("a", health="critical", health_since=since)
    mirrored("b", health="critical", node="two")
    mirrored("c")
    assert selectors.critical_since("one") == {"a": since}


def test_recent_changes_count_evictions_of_last_hour(django_assert_num_queries):
    now = timezone.now()
    for consul_id, node, minutes in [
        ("a", "one", 5),
        ("a", "one", 59),
        ("a", "one", 61),
        ("a", "two", 1),
        ("b", "one", 70),
    ]:
        at = now - timedelta(minutes=minutes)
        HealthTransition.objects.create(node=node, consul_id=consul_id, before="critical", after="evicted", at=at)
    with django_assert_num_queries(1):
        assert selectors.recent_changes(now).evictions == {("one", "a"): 2, ("two", "a"): 1}


@pytest.mark.parametrize(
    ("turns", "minutes", "flaps"),
    [
        (["passing", "critical"] * 3 + ["passing"], 9, True),
        (["passing", "critical"] * 3, 9, False),
        (["passing", "warning"] * 3 + ["passing"], 9, True),
        (["passing", "critical"] * 3 + ["passing"], 11, False),
        (["passing", "maintenance"] * 5, 1, False),
        (["passing", ""] * 5, 1, False),
    ],
)
def test_recent_changes_note_flapping_after_six_changes_in_ten_minutes(turns, minutes, flaps):
    now = timezone.now()
    for before, after in pairwise(turns):
        at = now - timedelta(minutes=minutes)
        HealthTransition.objects.create(node="one", consul_id="a", before=before, after=after, at=at)
    expected = {("one", "a"): "flapping: 6 changes in 10 min"} if flaps else {}
    assert selectors.recent_changes(now).flapping == expected


@pytest.mark.parametrize(
    ("kind", "name", "ended", "flaps"),
    [
        ("datacenter", "", 0, False),
        ("service", "API", 0, False),
        ("service", "other", 0, True),
        ("node", "one", None, False),
        ("node", "two", None, True),
        ("datacenter", "", 9, True),  # it was over before
    ],
)
def test_changes_during_a_halt_are_no_flapping(kind, name, ended, flaps):
    now = timezone.now()
    for before, after in pairwise(["passing", "critical"] * 3 + ["passing"]):
        at = now - timedelta(minutes=5)
        HealthTransition.objects.create(
            node="one", consul_id="a", service_name="api", before=before, after=after, at=at
        )
    ended_at = None if ended is None else now - timedelta(minutes=ended)
    EvictionHalt.objects.create(kind=kind, name=name, began_at=now - timedelta(minutes=9), ended_at=ended_at)
    halts = selectors.recent_halts(now)
    assert bool(selectors.recent_changes(now, halts=halts).flapping) is flaps


EVICTED_AND_BACK = (("critical", "evicted", 50), ("", "passing", 40))


@pytest.mark.parametrize(
    ("changes", "relapses"),
    [
        ([("", "passing", 50), ("critical", "evicted", 49)], 0),  # the first registration is no return
        ([*EVICTED_AND_BACK, ("passing", "critical", 35), ("critical", "evicted", 34)], 1),
        ([*EVICTED_AND_BACK, ("passing", "critical", 29), ("critical", "evicted", 28)], 0),
        (
            [*EVICTED_AND_BACK, ("critical", "evicted", 38), ("", "passing", 30), ("passing", "critical", 25),
             ("critical", "evicted", 24)],
            2,
        ),
    ],
)  # fmt: skip
def test_relapses_are_evictions_within_ten_minutes_of_a_return(changes, relapses):
    now = timezone.now()
    for before, after, minutes in changes:
        at = now - timedelta(minutes=minutes)
        HealthTransition.objects.create(node="one", consul_id="a", before=before, after=after, at=at)
    assert selectors.relapses(now, [("one", "a")]) == {("one", "a"): relapses}
    assert selectors.relapses(now, []) == {}


def test_observed_seconds_leave_out_the_gaps():
    gaps = [
        ObservationGap(began_at=seconds_ago(100), ended_at=seconds_ago(80)),
        ObservationGap(began_at=seconds_ago(50), ended_at=seconds_ago(40)),
    ]
    observed = selectors.observed_s(seconds_ago(90), seconds_ago(0), gaps)
    assert observed == pytest.approx(70, abs=1)


def test_starting_and_critical_instances_are_told_apart():
    since = seconds_ago(50)
    mirrored("a", health="critical", health_since=since)
    mirrored("b", health="unknown", health_since=since)
    assert selectors.critical_since("one", starting=True) == {"b": since}
    assert selectors.critical_since("one", starting=False) == {"a": since}


# -- pages ------------------------------------------------------------------------------------------------------------


def test_lease_status_has_holder_and_validity():
    assert (selectors.lease_status().holder, selectors.lease_status().is_current) == ("", False)
    now = timezone.now()
    row = Lease.objects.create(holder="a:1:b", since=now, expires_at=now + timedelta(seconds=60), next_pass_at=now)
    assert selectors.lease_status() == selectors.LeaseStatus(
        holder="a:1:b", since=now, next_pass_at=now, is_current=True
    )
    row.expires_at = now - timedelta(seconds=60)
    row.save()
    assert (selectors.lease_status().holder, selectors.lease_status().is_current) == ("a:1:b", False)
