"""The mirror: what a look found is written down, and only what has changed since the look before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from registry_admin.consul.observe import Observation
from registry_admin.consul.types import META_DIGEST, META_OWNER, META_SELF, CheckResult, Health, ServiceInstance
from registry_admin.inventory import mirror
from registry_admin.inventory.models import ConsulContact, HealthTransition, Instance, ObservedInstance, Service
from registry_admin.inventory.selectors import freshness, read_inventory
from registry_admin.reconcile.compare import make_plan
from tests.inventory.conftest import OWNER

pytestmark = pytest.mark.django_db

ID = "api-127.0.0.1-8001"


def seen(instance_id: str = ID, status: str = "passing", output: str = "fine", **fields: Any) -> ServiceInstance:
    """An instance on our own agent, of a stranger unless given meta; `status` is its check's."""
    check = CheckResult(id=f"{instance_id}:http", name="check", status=status, output=output)
    return ServiceInstance(
        **{
            "service": "api", "id": instance_id, "address": "127.0.0.1", "port": 8001, "node": "one",
            "health": Health(status), "checks": (check,),
        } | fields
    )  # fmt: skip


def look_of(*instances: ServiceInstance, **fields: Any) -> Observation:
    return Observation(
        node="one",
        node_id=fields.pop("node_id", "1"),
        here={one.id: one for one in instances if one.node == "one"},
        elsewhere=tuple(one for one in instances if one.node != "one"),
        **fields,
    )


def ours(row: Instance, **fields: Any) -> ServiceInstance:
    """A declared instance as we have registered it."""
    spec = row.spec()
    meta = {**spec.meta, META_OWNER: OWNER, META_DIGEST: spec.digest}
    return seen(spec.id, **{"service": spec.name, "port": spec.port, "tags": spec.tags, "meta": meta} | fields)


@pytest.fixture
def look() -> Callable[..., bool]:
    """`look(instance, …)`: a look found these, and they are written down; options as `record_observation` takes."""

    def record(*instances: ServiceInstance, node_id: str = "1", **options: Any) -> bool:
        observation = look_of(*instances, node_id=node_id)
        inventory = read_inventory(observation)
        plan = make_plan(inventory.declared, inventory.comparable(observation), owner=OWNER)
        return mirror.record_observation(
            inventory, observation, plan, **{"looked_at": timezone.now(), "notes": {}} | options
        )

    return record


def changes(rows: Iterable[HealthTransition] | None = None) -> list[tuple[str, str, str]]:
    found = HealthTransition.objects.order_by("id") if rows is None else rows
    return [(row.consul_id, row.before, row.after) for row in found]


# -- what is there ----------------------------------------------------------------------------------------------------


def test_what_is_seen_is_written_down_whole(look):
    look(seen(tags=("a",), meta={META_OWNER: "others", META_SELF: "x"}, weight=3))
    row = ObservedInstance.objects.get()
    assert (row.node, row.consul_id, row.service_name, row.address, row.port) == ("one", ID, "api", "127.0.0.1", 8001)
    assert (row.tags, row.weight, row.owner, row.registered_itself) == (["a"], 3, "others", True)
    assert (row.health, row.sync_status) == ("passing", "unmanaged")
    assert row.checks == [{"id": f"{ID}:http", "name": "check", "status": "passing", "output": "fine"}]


@pytest.mark.parametrize(
    "change",
    [
        {"service": "web"}, {"address": "10.0.0.1"}, {"port": 1}, {"tags": ("new",)}, {"meta": {"a": "1"}},
        {"weight": 2}, {"output": "still fine"}, {"status": "warning"}, {"meta": {META_OWNER: "me"}},
    ],
)  # fmt: skip
def test_whatever_changes_is_written(look, change):
    look(seen(), seen("other"))
    look(seen(**change), seen("other"))
    now = ObservedInstance.objects.get(consul_id=ID)
    look_afresh = ObservedInstance.objects.filter(consul_id=ID)
    kept = {name: getattr(now, name) for name in ("service_name", "address", "port", "tags", "meta", "weight", "owner")}
    expected = seen(**change)
    assert kept == {
        "service_name": expected.service, "address": expected.address, "port": expected.port,
        "tags": list(expected.tags), "meta": dict(expected.meta), "weight": expected.weight, "owner": expected.owner,
    }  # fmt: skip
    assert look_afresh.get().checks[0]["output"] == expected.checks[0].output
    assert now.health == expected.health


def test_one_id_on_two_nodes_is_two_rows(look):
    look(seen(), seen(node="two", status="critical"))
    assert dict(ObservedInstance.objects.values_list("node", "health")) == {"one": "passing", "two": "critical"}
    look(seen())
    assert [row.node for row in ObservedInstance.objects.all()] == ["one"]


def test_what_is_declared_and_seen_on_another_node_is_not_missing(look, declare):
    declare("api", 8001)
    row = Instance.objects.get()
    look(ours(row, node="two"))
    row.refresh_from_db()
    assert (row.sync_status, row.claimed) == ("synced", False)
    assert ObservedInstance.objects.get().sync_status == "synced"
    assert Service.objects.get().health == "passing"


def test_text_that_the_database_cannot_hold_is_written_as_far_as_it_can(look):
    look(seen("a\x00b" + "x" * 600, output="\ud800\x00" + "y" * 9000, meta={"k\x00": "v\ud800"}))
    row = ObservedInstance.objects.get()
    assert row.consul_id.startswith("a\N{REPLACEMENT CHARACTER}b")
    assert len(row.consul_id) == 512
    assert len(row.checks[0]["output"]) == 4096
    assert look(seen("a\x00b" + "x" * 600, output="\ud800\x00" + "y" * 9000, meta={"k\x00": "v\ud800"}))
    assert ObservedInstance.objects.count() == 1


def test_names_too_long_for_an_index_are_cut(look):
    name = "".join(map(chr, range(0x4E00, 0x4E00 + 20 * 512, 20)))  # three bytes each, and nothing to compress
    look(seen(name, service=name, node=name))
    row = ObservedInstance.objects.get()
    assert name.startswith(row.consul_id)
    assert len(row.consul_id) > 400


def test_ids_that_become_the_same_in_a_column_are_one_row_and_one_change(look):
    there = seen("x" * 600), seen("x" * 601)
    look(*there)
    look(*there)
    assert (ObservedInstance.objects.count(), HealthTransition.objects.count()) == (1, 1)


def test_rows_from_before_nodes_were_told_apart_are_our_own_agent_s(look):
    since = timezone.now() - timedelta(hours=1)
    ObservedInstance.objects.create(
        consul_id=ID, service_name="api", port=8001, health="passing", sync_status="unmanaged", health_since=since
    )
    ConsulContact.objects.create(pk=1)
    look(seen())
    row = ObservedInstance.objects.get()
    assert (row.node, row.health_since, changes()) == ("one", since, [])


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_objects", [True, False])
def test_nothing_new_is_nothing_written_but_that_it_was_looked_at(look, declare, count_queries, same_objects):
    declare("api", 8001, 8002)
    rows = list(Instance.objects.all())
    there = [*map(ours, rows), seen("stranger"), seen("far", node="two")]
    look(*there)
    again = there if same_objects else [replace(one) for one in there]
    writes = [sql for sql in count_queries(lambda: look(*again)) if not sql.startswith("SELECT")]
    assert len(writes) == 1
    assert 'UPDATE "inventory_consulcontact"' in writes[0]


def test_only_what_has_changed_is_written(look, count_queries):
    look(seen("a"), seen("b"), seen("c"))
    statements = count_queries(lambda: look(seen("a"), seen("b", output="new"), seen("c")))
    keys = {row.pk: row.consul_id for row in ObservedInstance.objects.all()}
    (written,) = [sql for sql in statements if "UPDATE" in sql and "observedinstance" in sql]
    if connection.vendor == "postgresql":
        assert [name for key, name in keys.items() if f"{{{key}}}" in written] == ["b"]
    else:
        assert written.startswith("1 times: ")


def test_the_number_of_queries_does_not_grow_with_the_rows(look, count_queries):
    def queries(count: int) -> int:
        before = [seen(f"i{number}") for number in range(count)]
        look(*before)
        gone, same, changed = before[: count // 3], before[count // 3 : 2 * count // 3], before[2 * count // 3 :]
        after = [*same, *(replace(one, tags=("new",)) for one in changed), *(seen(f"n{one.id}") for one in gone)]
        return len(count_queries(lambda: look(*after)))

    assert queries(6) == queries(90)


def test_the_services_are_held_before_their_instances_as_forms_do(look, declare, count_queries):
    declare("api", 8001)
    row = Instance.objects.get()
    look(ours(row))
    Instance.objects.update(sync_status="unknown")  # the service itself stays as it is
    if connection.vendor != "postgresql":
        pytest.skip("SQLite knows one writer at a time anyway")
    statements = count_queries(lambda: look(ours(row)))
    held = next(number for number, sql in enumerate(statements) if sql.endswith("FOR NO KEY UPDATE"))
    written = next(number for number, sql in enumerate(statements) if sql.startswith('UPDATE "inventory_instance"'))
    assert "inventory_service" in statements[held]
    assert held < written


def test_an_older_look_never_replaces_a_later_one(look):
    later = timezone.now()
    look(seen(status="critical"), looked_at=later)
    assert not look(seen(), looked_at=later - timedelta(seconds=1))
    assert ObservedInstance.objects.get().health == "critical"
    assert look(seen(), looked_at=later + timedelta(seconds=1))
    assert ObservedInstance.objects.get().health == "passing"


# -- how health goes --------------------------------------------------------------------------------------------------


def test_a_look_from_before_a_clock_was_set_back_is_no_later_one(look):
    look(seen(), looked_at=timezone.now() + timedelta(hours=1))
    assert look(seen(status="critical"))
    assert ObservedInstance.objects.get().health == Health.CRITICAL


def test_every_change_of_health_is_remembered_with_what_was_said(look):
    look(seen())
    look(seen(status="critical", output="refused"))
    look(seen(status="critical", output="refused again"))
    look()
    assert changes() == [(ID, "", "passing"), (ID, "passing", "critical"), (ID, "critical", "")]
    turned = HealthTransition.objects.order_by("id")[1]
    assert (turned.node, turned.service_name, turned.output) == ("one", "api", "refused")
    assert ObservedInstance.objects.count() == 0


def test_since_when_moves_only_with_health(look):
    look(seen())
    first = ObservedInstance.objects.get()
    look(seen(output="new", tags=("new",)))
    second = ObservedInstance.objects.get()
    assert (second.health_since, second.first_seen) == (first.health_since, first.first_seen)
    look(seen(status="warning"))
    third = ObservedInstance.objects.get()
    assert third.health_since > first.health_since
    assert third.first_seen == first.first_seen


def test_an_eviction_is_remembered_with_its_reason(look, declare):
    declare("api", 8001)
    row = Instance.objects.get()
    look(ours(row, status="critical"), seen("stranger", status="critical"))
    look(evicted={row.consul_id: "critical for 31 s: refused", "stranger": "critical for 40 s"})
    assert changes()[2:] == [(ID, "critical", "evicted"), ("stranger", "critical", "evicted")]
    assert HealthTransition.objects.get(consul_id=ID, after="evicted").output == "critical for 31 s: refused"
    row.refresh_from_db()
    assert (row.sync_status, row.evicted_reason) == ("evicted", "critical for 31 s: refused")
    assert row.sync_reason == row.evicted_reason
    assert row.evicted_at is not None
    assert not row.departed


def test_what_stays_evicted_is_not_written_again_and_what_comes_back_is_evicted_no_more(look, declare, count_queries):
    declare("api", 8001)
    row = Instance.objects.get()
    look(ours(row, status="critical"))
    look(evicted={ID: "dead"})
    assert len([sql for sql in count_queries(look) if not sql.startswith("SELECT")]) == 1
    row.refresh_from_db()
    assert row.sync_status == "evicted"
    look(ours(row))
    row.refresh_from_db()
    assert (row.sync_status, row.evicted_at, row.evicted_reason) == ("synced", None, "")
    assert changes()[-1] == (ID, "", "passing")


def test_one_that_registers_itself_again_the_moment_it_is_evicted_was_evicted_all_the_same(look):
    look(seen(status="critical"))
    before = ObservedInstance.objects.get()
    look(seen(status="critical"), evicted={ID: "dead"})
    assert changes()[1:] == [(ID, "critical", "evicted"), (ID, "", "critical")]
    assert ObservedInstance.objects.get().health_since > before.health_since


def test_switching_an_evicted_instance_off_forgets_that_it_was_evicted(look, declare):
    declare("api", 8001)
    look(ours(Instance.objects.get(), status="critical"))
    look(evicted={ID: "dead"})
    Instance.objects.update(enabled=False)
    look()
    assert (Instance.objects.get().evicted_at, Instance.objects.get().sync_status) == (None, "disabled")


# -- what is said of it -----------------------------------------------------------------------------------------------


def test_what_was_in_effect_when_last_in_sync_is_remembered(look, declare):
    service = declare("api", 8001)
    row = Instance.objects.get()
    look(replace(ours(row), meta={}))
    assert Instance.objects.get().applied_digest == ""
    look(ours(row))
    assert Instance.objects.get().applied_digest == row.spec().digest
    before = ours(row)
    service.tags = ["new"]
    service.save()
    look(before)
    kept = Instance.objects.get()
    assert (kept.sync_status, kept.applied_digest) == ("out_of_sync", row.spec().digest)
    assert kept.differences == [{"field": "tags", "before": [], "after": ["new"]}]


def test_a_note_stays_until_who_knows_better_takes_it_off(look):
    look(seen(), notes={("one", ID): "flapping"})
    assert ObservedInstance.objects.get().note == "flapping"
    look(seen(), notes=None)
    assert ObservedInstance.objects.get().note == "flapping"
    look(seen(), notes={})
    assert ObservedInstance.objects.get().note == ""


def test_why_nothing_is_evicted_stays_until_who_knows_better_takes_it_off(look):
    look(halted="half of everything is down")
    look()
    assert ConsulContact.objects.get().halted == "half of everything is down"
    look(halted="")
    assert ConsulContact.objects.get().halted == ""


def test_through_which_agent_it_was_seen_is_remembered(look):
    at = timezone.now()
    look(looked_at=at, node_id="abc")
    contact = ConsulContact.objects.get()
    assert (contact.node, contact.node_id, contact.looked_at, contact.reachable) == ("one", "abc", at, True)


# -- the heartbeat ----------------------------------------------------------------------------------------------------


def test_a_heartbeat_keeps_what_is_known_current(look, django_assert_num_queries):
    look(seen())
    ConsulContact.objects.update(seen_at=timezone.now() - timedelta(minutes=5))
    assert not freshness().is_current
    with django_assert_num_queries(1):
        assert mirror.contact_seen()
    assert freshness().is_current


def test_a_heartbeat_alone_does_not_end_an_outage(look):
    look(seen())
    mirror.record_contact(problem="refused the connection")
    assert not mirror.contact_seen()
    assert freshness().problem == "refused the connection"
