"""Adapter through which the measurements call the product: only this module depends on its internals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from django.db import connection
from django.utils import timezone

from registry_admin.consul import Place
from registry_admin.inventory.conf import consul_api
from registry_admin.inventory.models import Instance, ObservedInstance, Service, SyncRun
from registry_admin.inventory.sync import mirror
from registry_admin.inventory.sync.reconciler import Comparison, Reconciler
from registry_admin.reconcile.apply import apply_items

PER_SERVICE = 10
_WRITES = ("INSERT", "UPDATE", "DELETE")


def declare(count: int) -> None:
    """Replaces the inventory by `count` instances, ten to a service, with checks that never change by themselves."""
    SyncRun.objects.all().delete()
    ObservedInstance.objects.all().delete()
    Service.objects.all().delete()
    names = [f"service-{number}" for number in range(-(-count // PER_SERVICE))]
    services = Service.objects.bulk_create(
        [
            Service(name=name, tags=["api", "v1"], check_kind="ttl", check_interval="24h", deregister_after="")
            for name in names
        ]
    )
    Instance.objects.bulk_create(
        [
            Instance(
                service=services[number // PER_SERVICE],
                address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
                port=8000,
                consul_id=f"instance-{number}",
            )
            for number in range(count)
        ],
        batch_size=1000,
    )


def compare() -> Comparison:
    """Returns the current declarations, the snapshot of Consul and the plan."""
    return Reconciler(trigger=SyncRun.Trigger.COMMAND).plan()


def bodies(comparison: Comparison) -> list[bytes]:
    """Returns the JSON bodies of the plan's registrations."""
    marks = _marks(comparison)
    specs = [item.spec for item in comparison.plan.changes if item.spec]
    return [json.dumps(spec.payload(marks=marks(spec.id))).encode() for spec in specs]


def apply(comparison: Comparison) -> None:
    """Applies the plan. Raises RuntimeError if a registration fails."""
    results = apply_items(comparison.plan.changes, consul_api(), marks=_marks(comparison))
    failed = [result for result in results if not result.ok]
    if failed:
        raise RuntimeError(f"{len(failed)} were not registered, such as {failed[0].item.id}: {failed[0].error}")


def _marks(comparison: Comparison) -> Callable[[str], Mapping[str, str]]:
    snapshot, owner = comparison.snapshot, comparison.plan.owner
    return lambda instance_id: owner.marks(Place(snapshot.datacenter, snapshot.node, instance_id))


def make_pass() -> int:
    """Runs a whole pass, as a command does, and returns the number of changed instances."""
    outcome = Reconciler(trigger=SyncRun.Trigger.COMMAND).run()
    if outcome.error:
        raise outcome.error
    return len(outcome.results)


def mirror_writes(action: Callable[[], object]) -> int:
    """Returns the number of statements of `action` that write the mirror or the declarations."""
    tables = {model._meta.db_table for model in (ObservedInstance, Instance, Service)}
    writes = 0

    def count(execute: Any, sql: str, *arguments: Any) -> Any:
        nonlocal writes
        writes += sql.startswith(_WRITES) and any(f'"{table}"' in sql for table in tables)
        return execute(sql, *arguments)

    with connection.execute_wrapper(count):
        action()
    return writes


def with_check_output(comparison: Comparison, *, output: str) -> Comparison:
    """Returns the comparison with another output of every instance's check."""
    local = {
        key: dataclasses.replace(
            instance, checks=tuple(dataclasses.replace(check, output=f"{output} {key}") for check in instance.checks)
        )
        for key, instance in comparison.snapshot.local.items()
    }
    return dataclasses.replace(comparison, snapshot=dataclasses.replace(comparison.snapshot, local=local))


def write_mirror(comparison: Comparison) -> None:
    """Records the comparison's snapshot in the mirror."""
    mirror.record_snapshot(comparison.inventory, comparison.snapshot, comparison.plan, read_at=timezone.now())
