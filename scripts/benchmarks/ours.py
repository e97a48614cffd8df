"""The product as the measurements call it: the one module to change when its inner names do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from django.db import connection
from django.utils import timezone

from registry_admin.consul import Observation
from registry_admin.consul.types import META_OWNER
from registry_admin.inventory import mirror
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.models import Instance, ObservedInstance, Service, SyncRun
from registry_admin.inventory.passes import Look, Pass
from registry_admin.reconcile.apply import apply_items

PER_SERVICE = 10
_WRITES = ("INSERT", "UPDATE", "DELETE")


def declare(count: int) -> None:
    """So many instances, ten to a service, and nothing else: with checks that never change by themselves."""
    SyncRun.objects.all().delete()
    ObservedInstance.objects.all().delete()
    Service.objects.all().delete()
    names = [f"service-{number}" for number in range(-(-count // PER_SERVICE))]
    made = Service.objects.bulk_create(
        [
            Service(name=name, tags=["api", "v1"], check_kind="ttl", check_interval="24h", deregister_after="")
            for name in names
        ]
    )
    Instance.objects.bulk_create(
        [
            Instance(
                service=made[number // PER_SERVICE],
                address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
                port=8000,
                consul_id=f"instance-{number}",
            )
            for number in range(count)
        ],
        batch_size=1000,
    )


def look() -> Look:
    """Both sides and the plan, as they are now."""
    return Pass(trigger=SyncRun.Trigger.COMMAND).look()


def bodies(found: Look) -> list[bytes]:
    """The registrations of the plan, as they go to the agent."""
    marks = {META_OWNER: conf.owner}
    return [json.dumps(item.spec.payload(marks=marks)).encode() for item in found.plan.changes if item.spec]


def apply(found: Look) -> None:
    """Registers what is missing. Raises RuntimeError where Consul didn't take it."""
    failed = [result for result in apply_items(found.plan.changes, consul_api(), owner=conf.owner) if not result.ok]
    if failed:
        raise RuntimeError(f"{len(failed)} were not registered, such as {failed[0].item.id}: {failed[0].error}")


def make_pass() -> int:
    """A whole pass, as a command makes it; returns how many instances it changed."""
    outcome = Pass(trigger=SyncRun.Trigger.COMMAND).make()
    if outcome.error:
        raise outcome.error
    return len(outcome.results)


def mirror_writes(action: Callable[[], object]) -> int:
    """How many statements that `action` runs write the mirror or the declarations."""
    tables = {model._meta.db_table for model in (ObservedInstance, Instance, Service)}  # noqa: SLF001
    found = 0

    def count(execute: Any, sql: str, *rest: Any) -> Any:
        nonlocal found
        found += sql.startswith(_WRITES) and any(f'"{table}"' in sql for table in tables)
        return execute(sql, *rest)

    with connection.execute_wrapper(count):
        action()
    return found


def altered(found: Look, *, output: str) -> Look:
    """The same look, but every instance's check says something else."""
    here = {
        key: dataclasses.replace(
            one, checks=tuple(dataclasses.replace(check, output=f"{output} {key}") for check in one.checks)
        )
        for key, one in found.observation.here.items()
    }
    seen = found.observation
    changed = Observation(node=seen.node, node_id=seen.node_id, here=here)
    return dataclasses.replace(found, observation=changed)


def write_mirror(found: Look) -> None:
    """Writes down what a look has found."""
    mirror.record_observation(found.inventory, found.observation, found.plan, looked_at=timezone.now())
