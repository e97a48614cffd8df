"""The mirror of Consul in the database, and the writes that each snapshot causes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from registry_admin.consul import Place
from registry_admin.consul.health import CheckResult, Health
from registry_admin.consul.marks import META_DIGEST, META_OWNER, META_SELF
from registry_admin.consul.snapshot import Snapshot
from registry_admin.consul.types import ServiceInstance
from registry_admin.inventory.models import ConsulContact, HealthTransition, Instance, ObservedInstance, Service
from registry_admin.inventory.selectors import freshness, read_inventory, read_owner
from registry_admin.inventory.sync import mirror
from registry_admin.reconcile.planner import make_plan

pytestmark = pytest.mark.django_db

ID = "api-127.0.0.1-8001"


def observed(instance_id: str = ID, status: str = "passing", output: str = "fine", **fields: Any) -> ServiceInstance:
    """Returns an instance of our agent, foreign unless `meta` is given; `status` is that of its check."""
    check = CheckResult(id=f"{instance_id}:http", name="check", status=status, output=output)
    return ServiceInstance(
        **{
            "service": "api", "id": instance_id, "address": "127.0.0.1", "port": 8001, "node": "one",
            "datacenter": "dc1",
            "health": Health(status), "checks": (check,),
        } | fields
    )  # fmt: skip


def snapshot_of(*instances: ServiceInstance, **fields: Any) -> Snapshot:
    return Snapshot(
        node="one",
        datacenter="dc1",
        node_id=fields.pop("node_id", "1"),
        local={instance.id: instance for instance in instances if instance.node == "one"},
        remote=tuple(instance for instance in instances if instance.node != "one"),
        **fields,
    )


def registered(row: Instance, **fields: Any) -> ServiceInstance:
    """Returns a declared instance as the product registers it."""
    spec = row.spec()
    marks = read_owner().marks(Place("dc1", fields.get("node", "one"), spec.id))
    meta = {**spec.meta, **marks, META_DIGEST: spec.digest}
    return observed(spec.id, **{"service": spec.name, "port": spec.port, "tags": spec.tags, "meta": meta} | fields)


@pytest.fixture
def record() -> Callable[..., bool]:
    """`record(instance, …)`: records a snapshot of these; options as of `record_snapshot`."""

    def record_instances(*instances: ServiceInstance, node_id: str = "1", **options: Any) -> bool:
        snapshot = snapshot_of(*instances, node_id=node_id)
        owner = read_owner()
        inventory = read_inventory(snapshot, owner)
        plan = make_plan(inventory.declared, inventory.without_excluded(snapshot), owner=owner)
        return mirror.record_snapshot(inventory, snapshot, plan, **{"read_at": timezone.now(), "notes": {}} | options)

    return record_instances


def changes(rows: Iterable[HealthTransition] | None = None) -> list[tuple[str, str, str]]:
    transitions = HealthTransition.objects.order_by("id") if rows is None else rows
    return [(row.consul_id, row.before, row.after) for row in transitions]


# -- observed instances -----------------------------------------------------------------------------------------------


def test_observed_instance_is_recorded_with_all_fields(record):
    record(observed(tags=("a",), meta={META_OWNER: "others", META_SELF: "x"}, weight=3))
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
def test_changed_field_of_observed_instance_is_recorded(record, change):
    record(observed(), observed("other"))
    record(observed(**change), observed("other"))
    now = ObservedInstance.objects.get(consul_id=ID)
    rows = ObservedInstance.objects.filter(consul_id=ID)
    actual = {
        name: getattr(now, name) for name in ("service_name", "address", "port", "tags", "meta", "weight", "owner")
    }
    expected = observed(**change)
    assert actual == {
        "service_name": expected.service, "address": expected.address, "port": expected.port,
        "tags": list(expected.tags), "meta": dict(expected.meta), "weight": expected.weight, "owner": expected.owner,
    }  # fmt: skip
    assert rows.get().checks[0]["output"] == expected.checks[0].output
    assert now.health == expected.health


def test_same_id_on_two_nodes_has_two_rows(record):
    record(observed(), observed(node="two", status="critical"))
    assert dict(ObservedInstance.objects.values_list("node", "health")) == {"one": "passing", "two": "critical"}
    record(observed())
    assert [row.node for row in ObservedInstance.objects.all()] == ["one"]


def test_declared_instance_on_another_node_is_synced(record, declare):
    declare("api", 8001)
    row = Instance.objects.get()
    record(registered(row, node="two"))
    row.refresh_from_db()
    assert (row.sync_status, row.claimed_node) == ("synced", "two")
    assert ObservedInstance.objects.get().sync_status == "synced"
    assert Service.objects.get().health == "passing"


def test_text_that_the_database_cannot_store_is_replaced_and_truncated(record):
    record(observed("a\x00b" + "x" * 600, output="\ud800\x00" + "y" * 9000, meta={"k\x00": "v\ud800"}))
    row = ObservedInstance.objects.get()
    assert row.consul_id.startswith("a\N{REPLACEMENT CHARACTER}b")
    assert len(row.consul_id) == 512
    assert len(row.checks[0]["output"]) == 4096
    assert record(observed("a\x00b" + "x" * 600, output="\ud800\x00" + "y" * 9000, meta={"k\x00": "v\ud800"}))
    assert ObservedInstance.objects.count() == 1


def test_names_too_long_for_an_index_are_truncated(record):
    name = "".join(map(chr, range(0x4E00, 0x4E00 + 20 * 512, 20)))  # three bytes each, and nothing to compress
    record(observed(name, service=name, node=name))
    row = ObservedInstance.objects.get()
    assert name.startswith(row.consul_id)
    assert len(row.consul_id) > 400


def test_ids_equal_after_truncation_share_a_row_and_a_transition(record):
    instances = observed("x" * 600), observed("x" * 601)
    record(*instances)
    record(*instances)
    assert (ObservedInstance.objects.count(), HealthTransition.objects.count()) == (1, 1)


def test_legacy_rows_without_node_belong_to_the_local_agent(record):
    since = timezone.now() - timedelta(hours=1)
    ObservedInstance.objects.create(
        consul_id=ID, service_name="api", port=8001, health="passing", sync_status="unmanaged", health_since=since
    )
    ConsulContact.objects.create(pk=1)
    record(observed())
    row = ObservedInstance.objects.get()
    assert (row.node, row.health_since, changes()) == ("one", since, [])


# -- writes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_objects", [True, False])
def test_unchanged_snapshot_writes_only_the_contact(record, declare, count_queries, same_objects):
    declare("api", 8001, 8002)
    rows = list(Instance.objects.all())
    instances = [*map(registered, rows), observed("stranger"), observed("far", node="two")]
    record(*instances)
    again = instances if same_objects else [replace(instance) for instance in instances]
    writes = [sql for sql in count_queries(lambda: record(*again)) if not sql.startswith("SELECT")]
    assert len(writes) == 1
    assert 'UPDATE "inventory_consulcontact"' in writes[0]


def test_changed_snapshot_writes_only_the_changed_row(record, count_queries):
    record(observed("a"), observed("b"), observed("c"))
    statements = count_queries(lambda: record(observed("a"), observed("b", output="new"), observed("c")))
    keys = {row.pk: row.consul_id for row in ObservedInstance.objects.all()}
    (written,) = [sql for sql in statements if "UPDATE" in sql and "observedinstance" in sql]
    if connection.vendor == "postgresql":
        assert [name for key, name in keys.items() if f"{{{key}}}" in written] == ["b"]
    else:
        assert written.startswith("1 times: ")


def test_changed_output_alone_writes_only_the_checks(record):
    record(observed(meta={"a": "1"}))
    with CaptureQueriesContext(connection) as queries:
        record(observed(meta={"a": "1"}, output="other"))
    (update,) = (query["sql"] for query in queries if 'UPDATE "inventory_observedinstance"' in query["sql"])
    assert '"checks"' in update
    assert '"meta"' not in update
    assert ObservedInstance.objects.get().meta == {"a": "1"}


@pytest.mark.parametrize(
    "value",
    [
        {"sync_status": "missing"}, {"sync_reason": "x"}, {"sync_cause": "edited"}, {"sync_action": "update"},
        {"differences": [{"field": "port"}]}, {"departed": True}, {"departed_node": "two"},
        {"claimed_datacenter": "dc2"}, {"claimed_node": "two"}, {"applied_digest": "x"},
        {"evicted_at": timezone.now()}, {"evicted_reason": "x"},
    ],
    ids=lambda value: next(iter(value)),
)  # fmt: skip
def test_status_column_that_is_wrong_is_put_right(record, declare, value):
    declare("api", 8001)
    (name,) = value
    record(registered(Instance.objects.get()))
    right = getattr(Instance.objects.get(), name)
    Instance.objects.update(**value)
    record(registered(Instance.objects.get()))
    assert value[name] != right == getattr(Instance.objects.get(), name)


@pytest.mark.parametrize("field", ["enabled", "service__enabled"])
def test_status_of_disabled_instance_is_not_synced(record, declare, field):
    declare("api", 8001)
    instance = registered(Instance.objects.get())
    record(instance)
    assert Instance.objects.get().sync_status == "synced"
    if field == "enabled":
        Instance.objects.update(enabled=False)
    else:
        Service.objects.update(enabled=False)
    record(instance)
    assert Instance.objects.get().sync_status == "disabled"


def test_query_count_is_independent_of_row_count(record, count_queries):
    def queries(count: int) -> int:
        before = [observed(f"i{number}") for number in range(count)]
        record(*before)
        removed, same, changed = before[: count // 3], before[count // 3 : 2 * count // 3], before[2 * count // 3 :]
        after = [
            *same,
            *(replace(instance, tags=("new",)) for instance in changed),
            *(observed(f"n{instance.id}") for instance in removed),
        ]
        return len(count_queries(lambda: record(*after)))

    assert queries(6) == queries(90)


def test_services_are_locked_before_their_instances(record, declare, count_queries):
    declare("api", 8001)
    row = Instance.objects.get()
    record(registered(row))
    Instance.objects.update(sync_status="unknown")  # the service itself stays as it is
    if connection.vendor != "postgresql":
        pytest.skip("SQLite knows one writer at a time anyway")
    statements = count_queries(lambda: record(registered(row)))
    locked = next(number for number, sql in enumerate(statements) if sql.endswith("FOR NO KEY UPDATE"))
    written = next(number for number, sql in enumerate(statements) if sql.startswith('UPDATE "inventory_instance"'))
    assert "inventory_service" in statements[locked]
    assert locked < written


def test_older_snapshot_does_not_replace_a_later_one(record):
    later = timezone.now()
    record(observed(status="critical"), read_at=later)
    assert not record(observed(), read_at=later - timedelta(seconds=1))
    assert ObservedInstance.objects.get().health == "critical"
    assert record(observed(), read_at=later + timedelta(seconds=1))
    assert ObservedInstance.objects.get().health == "passing"


# -- health transitions -----------------------------------------------------------------------------------------------


def test_snapshot_after_clock_was_set_back_is_recorded(record):
    record(observed(), read_at=timezone.now() + timedelta(hours=1))
    assert record(observed(status="critical"))
    assert ObservedInstance.objects.get().health == Health.CRITICAL


def test_health_transitions_are_recorded_with_check_output(record):
    record(observed())
    record(observed(status="critical", output="refused"))
    record(observed(status="critical", output="refused again"))
    record()
    assert changes() == [(ID, "", "passing"), (ID, "passing", "critical"), (ID, "critical", "")]
    turned = HealthTransition.objects.order_by("id")[1]
    assert (turned.node, turned.service_name, turned.output) == ("one", "api", "refused")
    assert ObservedInstance.objects.count() == 0


def test_health_since_changes_only_with_health(record):
    record(observed())
    first = ObservedInstance.objects.get()
    record(observed(output="new", tags=("new",)))
    second = ObservedInstance.objects.get()
    assert (second.health_since, second.first_seen) == (first.health_since, first.first_seen)
    record(observed(status="warning"))
    third = ObservedInstance.objects.get()
    assert third.health_since > first.health_since
    assert third.first_seen == first.first_seen


def test_eviction_is_recorded_with_its_reason(record, declare):
    declare("api", 8001)
    row = Instance.objects.get()
    record(registered(row, status="critical"), observed("stranger", status="critical"))
    record(evicted={row.consul_id: "critical for 31 s: refused", "stranger": "critical for 40 s"})
    assert sorted(changes()[2:]) == [(ID, "critical", "evicted"), ("stranger", "critical", "evicted")]
    assert HealthTransition.objects.get(consul_id=ID, after="evicted").output == "critical for 31 s: refused"
    row.refresh_from_db()
    assert (row.sync_status, row.evicted_reason) == ("evicted", "critical for 31 s: refused")
    assert row.sync_reason == row.evicted_reason
    assert row.evicted_at is not None
    assert not row.departed


def test_evicted_instance_is_written_once_and_cleared_when_it_returns(record, declare, count_queries):
    declare("api", 8001)
    row = Instance.objects.get()
    record(registered(row, status="critical"))
    record(evicted={ID: "dead"})
    assert len([sql for sql in count_queries(record) if not sql.startswith("SELECT")]) == 1
    row.refresh_from_db()
    assert row.sync_status == "evicted"
    record(registered(row))
    row.refresh_from_db()
    assert (row.sync_status, row.evicted_at, row.evicted_reason) == ("synced", None, "")
    assert changes()[-1] == (ID, "", "passing")


def test_eviction_of_instance_that_registers_again_at_once_is_recorded(record):
    record(observed(status="critical"))
    before = ObservedInstance.objects.get()
    record(observed(status="critical"), evicted={ID: "dead"})
    assert changes()[1:] == [(ID, "critical", "evicted"), (ID, "", "critical")]
    assert ObservedInstance.objects.get().health_since > before.health_since


def test_evicted_instance_that_is_disabled_loses_its_eviction(record, declare):
    declare("api", 8001)
    record(registered(Instance.objects.get(), status="critical"))
    record(evicted={ID: "dead"})
    Instance.objects.update(enabled=False)
    record()
    assert (Instance.objects.get().evicted_at, Instance.objects.get().sync_status) == (None, "disabled")


# -- status, notes and halts ------------------------------------------------------------------------------------------


def test_applied_digest_of_last_sync_is_recorded(record, declare):
    service = declare("api", 8001)
    row = Instance.objects.get()
    record(replace(registered(row), meta={}))
    assert Instance.objects.get().applied_digest == ""
    record(registered(row))
    assert Instance.objects.get().applied_digest == row.spec().digest
    before = registered(row)
    service.tags = ["new"]
    service.save()
    record(before)
    current = Instance.objects.get()
    assert (current.sync_status, current.applied_digest) == ("out_of_sync", row.spec().digest)
    assert current.differences == [{"field": "tags", "before": [], "after": ["new"]}]


def test_note_stays_until_a_supervised_run_clears_it(record):
    record(observed(), notes={("one", ID): "flapping"})
    assert ObservedInstance.objects.get().note == "flapping"
    record(observed(), notes=None)
    assert ObservedInstance.objects.get().note == "flapping"
    record(observed(), notes={})
    assert ObservedInstance.objects.get().note == ""


def test_eviction_halt_stays_until_a_supervised_run_clears_it(record):
    record(halted="half of everything is down")
    record()
    assert ConsulContact.objects.get().halted == "half of everything is down"
    record(halted="")
    assert ConsulContact.objects.get().halted == ""


def test_contact_records_the_agent_of_the_snapshot(record):
    at = timezone.now()
    record(read_at=at, node_id="abc")
    contact = ConsulContact.objects.get()
    assert (contact.node, contact.node_id, contact.looked_at, contact.reachable) == ("one", "abc", at, True)


# -- heartbeat --------------------------------------------------------------------------------------------------------


def test_heartbeat_keeps_the_mirror_current(record, django_assert_num_queries):
    record(observed())
    ConsulContact.objects.update(seen_at=timezone.now() - timedelta(minutes=5))
    assert not freshness().is_current
    with django_assert_num_queries(1):
        assert mirror.touch_contact()
    assert freshness().is_current


def test_heartbeat_during_an_outage_does_not_end_it(record):
    record(observed())
    mirror.record_contact(problem="refused the connection")
    assert not mirror.touch_contact()
    assert freshness().problem == "refused the connection"
