"""Reads: the declared side of a plan, whether a look may be believed, how health has gone, and what pages show."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.utils import timezone

from registry_admin.consul.observe import Observation
from registry_admin.consul.types import META_OWNER, ServiceInstance
from registry_admin.inventory import selectors
from registry_admin.inventory.models import (
    ConsulContact,
    HealthTransition,
    Instance,
    Lease,
    ObservedInstance,
    Service,
)  # fmt: skip
from registry_admin.inventory.selectors import read_inventory
from tests.inventory.conftest import OWNER

pytestmark = pytest.mark.django_db

ID = "api-127.0.0.1-8001"


def look_of(*instance_ids: str, node_id: str = "1", elsewhere: tuple[str, ...] = (), **fields: Any) -> Observation:
    def instance(key: str, node: str) -> ServiceInstance:
        return ServiceInstance(service="api", id=key, address="127.0.0.1", port=1, node=node, meta={META_OWNER: OWNER})

    return Observation(
        node="one", node_id=node_id, here={key: instance(key, "one") for key in instance_ids},
        elsewhere=tuple(instance(key, "two") for key in elsewhere), **fields,
    )  # fmt: skip


def mirrored(consul_id: str = ID, **fields: Any) -> ObservedInstance:
    values = {"node": "one", "service_name": "api", "port": 1, "health": "passing", "sync_status": "synced"}
    return ObservedInstance.objects.create(**values | {"consul_id": consul_id} | fields)


def seconds_ago(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


# -- the declared side ------------------------------------------------------------------------------------------------


def test_every_column_of_a_declaration_becomes_its_spec(declare):
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
    Instance.objects.update(claimed=True, applied_digest="abc")
    (declared,) = read_inventory(look_of()).declared
    assert declared.spec == instance.spec()
    assert (declared.enabled, declared.claimed, declared.applied, declared.evicted) == (True, True, "abc", "")


def test_a_row_that_has_not_changed_gives_the_same_object_again(declare):
    declare("api", 8001)
    declare("web", 8002)
    first = {one.spec.id: one for one in read_inventory(look_of()).declared}
    Service.objects.filter(name="web").update(tags=["new"])
    second = {one.spec.id: one for one in read_inventory(look_of()).declared}
    assert second[ID] is first[ID]
    assert second["web-127.0.0.1-8002"].spec.tags == ("new",)
    Instance.objects.update(claimed=True)
    third = {one.spec.id: one for one in read_inventory(look_of()).declared}
    assert (third[ID].claimed, third[ID].spec is first[ID].spec) == (True, True)
    Service.objects.filter(name="api").update(enabled=False)
    assert {one.spec.id: one.enabled for one in read_inventory(look_of()).declared}[ID] is False


def test_all_declarations_are_one_query(declare, django_assert_num_queries):
    declare("api", *range(8001, 8011))
    declare("web", 8020)
    there = look_of(*Instance.objects.values_list("consul_id", flat=True))
    with django_assert_num_queries(1):
        assert len(read_inventory(there).declared) == 11


def test_what_is_released_is_neither_declared_nor_compared(declare):
    declare("api", 8001, 8002)
    Instance.objects.filter(port=8002).update(released=True)
    Instance.objects.filter(port=8001).update(weight=0)
    observation = look_of(ID, "api-127.0.0.1-8002", "stranger", elsewhere=(ID, "far"))
    inventory = read_inventory(observation)
    assert (inventory.declared, list(inventory.broken)) == ((), [ID])
    left = inventory.comparable(observation)
    assert (list(left.here), [one.id for one in left.elsewhere]) == (["stranger"], ["far"])


@pytest.mark.parametrize("node", ["one", "two"])
def test_one_that_registered_itself_and_is_gone_has_left(declare, node):
    declare("api", 8001)
    mirrored(node=node, registered_itself=True)
    assert [one.departed for one in read_inventory(look_of()).declared] == [True]
    assert [one.departed for one in read_inventory(look_of(), revive={"api"}).declared] == [False]
    assert [one.departed for one in read_inventory(look_of(ID)).declared] == [False]
    assert [one.departed for one in read_inventory(look_of(elsewhere=(ID,))).declared] == [False]


# -- evicted ----------------------------------------------------------------------------------------------------------


def test_an_evicted_instance_says_why_until_it_is_there_again_or_asked_for(declare):
    declare("api", 8001)
    Instance.objects.update(evicted_at=timezone.now(), evicted_reason="dead", claimed=True)

    def now(*there: str, **options: Any) -> tuple[str, bool]:
        (one,) = read_inventory(look_of(*there), **options).declared
        return one.evicted, one.answers

    assert now() == ("dead", False)
    assert now(answering={ID}) == ("dead", True)
    assert now(ID, answering={ID}) == ("", False)
    assert now(revive={"api"}) == ("", False)


@pytest.mark.parametrize(
    ("mirror", "row", "service", "taken_out"),
    [
        ({}, {}, {}, True),
        ({"health": "warning"}, {}, {}, False),
        ({"node": "two"}, {}, {}, False),
        ({"health_since": 20}, {}, {}, False),
        ({}, {"claimed": False}, {}, False),
        ({}, {"enabled": False}, {}, False),
        ({}, {}, {"deregister_after": ""}, False),
        ({}, {}, {"deregister_after": "10m"}, False),
        ({"registered_itself": True}, {}, {}, True),
    ],
)
def test_what_consul_itself_has_taken_out_as_dead_is_evicted(declare, mirror, row, service, taken_out):
    declare("api", 8001, check_kind="ttl", **service)
    Instance.objects.update(**{"claimed": True} | row)
    since = seconds_ago(mirror.pop("health_since", 95))
    checks = [{"id": "1", "name": "c", "status": "critical", "output": "refused"}]
    mirrored(**{"health": "critical", "health_since": since, "checks": checks} | mirror)
    inventory = read_inventory(look_of("other"))
    (declared,) = inventory.declared
    assert bool(declared.evicted) is taken_out
    if taken_out:
        assert inventory.taken_out == {ID: declared.evicted}
        assert declared.evicted == f"Consul took it out, critical since {since:%Y-%m-%d %H:%M:%S} UTC: refused"
        assert not declared.departed


def test_what_went_with_the_agent_s_memory_was_not_evicted(declare):
    declare("api", 8001)
    Instance.objects.update(claimed=True)
    mirrored(health="critical", health_since=seconds_ago(300))
    ConsulContact.objects.create(pk=1, node="one", node_id="1")
    assert read_inventory(look_of(node_id="2")).declared[0].evicted == ""
    assert read_inventory(look_of(node_id="1")).declared[0].evicted != ""


# -- whether to believe it --------------------------------------------------------------------------------------------


def test_an_agent_has_lost_its_state_when_its_node_has_another_id():
    ConsulContact.objects.create(pk=1, node="one", node_id="1")
    assert not selectors.lost_state(look_of(node_id="1"))
    assert selectors.lost_state(look_of(node_id="2"))
    ConsulContact.objects.update(node="another agent's")
    assert not selectors.lost_state(look_of(node_id="2"))


@pytest.mark.parametrize(("count", "lost"), [(3, False), (4, True)])
def test_an_agent_has_lost_its_state_when_nothing_of_many_is_left(count, lost):
    ConsulContact.objects.create(pk=1, node="one", node_id="1")
    for number in range(count):
        mirrored(f"i{number}", owner=OWNER)
        mirrored(f"other-{number}", owner="other")
    assert selectors.lost_state(look_of()) is lost
    assert not selectors.lost_state(look_of("i0"))


def test_there_is_doubt_where_the_token_may_not_see_all_and_something_of_ours_is_not_seen():
    mirrored("i1", owner=OWNER)
    mirrored("i2", owner=OWNER)
    mirrored("theirs", owner="other")
    assert "1 instance(s) of ours" in selectors.doubt(look_of("i1", filtered=True))
    assert not selectors.doubt(look_of("i1", "i2", filtered=True))


@pytest.mark.parametrize(("count", "node_id", "doubted"), [(4, "1", True), (3, "1", False), (4, "2", False)])
def test_there_is_doubt_where_many_were_and_nothing_is(count, node_id, doubted):
    ConsulContact.objects.create(pk=1, node="one", node_id="1")
    for number in range(count):
        mirrored(f"i{number}")
        mirrored(f"i{number}", node="two")
    assert bool(selectors.doubt(look_of(node_id=node_id))) is doubted
    assert not selectors.doubt(look_of("i1", node_id=node_id))


# -- how health has gone ----------------------------------------------------------------------------------------------


def test_since_when_who_is_critical():
    since = seconds_ago(50)
    mirrored("a", health="critical", health_since=since)
    mirrored("b", health="critical", node="two")
    mirrored("c")
    assert selectors.critical_since("one") == {"a": since}


def test_how_often_who_was_evicted_within_the_hour(django_assert_num_queries):
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
def test_flapping_is_six_changes_within_ten_minutes(turns, minutes, flaps):
    now = timezone.now()
    for before, after in pairwise(turns):
        at = now - timedelta(minutes=minutes)
        HealthTransition.objects.create(node="one", consul_id="a", before=before, after=after, at=at)
    expected = {("one", "a"): "flapping: 6 changes in 10 min"} if flaps else {}
    assert selectors.recent_changes(now).flapping == expected


# -- pages ------------------------------------------------------------------------------------------------------------


def test_who_leads_is_told_with_whether_that_still_holds():
    assert (selectors.lease().holder, selectors.lease().is_current) == ("", False)
    now = timezone.now()
    row = Lease.objects.create(holder="a:1:b", since=now, expires_at=now + timedelta(seconds=60), next_pass_at=now)
    assert selectors.lease() == selectors.Leadership(holder="a:1:b", since=now, next_pass_at=now, is_current=True)
    row.expires_at = now - timedelta(seconds=60)
    row.save()
    assert (selectors.lease().holder, selectors.lease().is_current) == ("a:1:b", False)


def test_a_pane_shows_an_id_once_for_every_node_that_has_it(declare):
    service = declare("api", 8001, 8002)
    mirrored(ID, node="two")
    mirrored(ID, node="one")
    mirrored("stranger", service_name="API")
    mirrored("other", service_name="web")
    pane = selectors.service_pane(service.pk)
    shown = [(row.consul_id, row.node, row.declared is not None) for row in pane.rows]
    assert shown == [
        (ID, "one", True), (ID, "two", True), ("api-127.0.0.1-8002", "", True), ("stranger", "one", False),
    ]  # fmt: skip
