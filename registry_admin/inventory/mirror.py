"""Writing down what was seen in Consul: only rows that changed, in a number of queries that doesn't grow with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from django.db import transaction
from django.utils import timezone

from registry_admin.consul import Health, ServiceInstance
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, Service, SyncStatus
from registry_admin.inventory.selectors import Inventory
from registry_admin.reconcile.plan import Plan, PlanItem

_BATCH = 1000
_MIRRORED = (
    "service_name", "address", "port", "tags", "meta", "weight", "owner", "registered_itself", "sync_status",
    "sync_reason", "health", "checks",
)  # fmt: skip
_JUDGED = ("sync_status", "sync_reason", "differences", "departed", "claimed")
_KEPT_OUTPUT = 4096  # Consul's own limit for a check's output

# The most pressing first: what a service with several instances is shown as.
_URGENCY = [
    SyncStatus.MISSING, SyncStatus.EVICTED, SyncStatus.OUT_OF_SYNC, SyncStatus.UNKNOWN, SyncStatus.SYNCED,
    SyncStatus.DISABLED,
]  # fmt: skip


def record_contact(*, problem: str = "") -> None:
    """Notes that Consul has just answered, or why it didn't."""
    now = timezone.now()
    reachable = not problem
    contact = ConsulContact.objects.filter(pk=1).first() or ConsulContact(since=now)
    if contact.reachable is not reachable:
        contact.reachable, contact.since = reachable, now
    contact.problem = problem
    if reachable:
        contact.seen_at = now
    contact.save()


@transaction.atomic
def record_observation(inventory: Inventory, observed: Mapping[str, ServiceInstance], plan: Plan) -> None:
    """Brings the mirror, and the sync status and health of every declaration, to what `plan` was made from.

    One at a time, and services before instances, as forms save them: otherwise two could wait for each other's rows.
    """
    ConsulContact.objects.select_for_update().filter(pk=1).first()
    items = {item.id: item for item in plan.items}
    _mirror_instances(observed, plan, items)
    changed = _refreshed(inventory, observed, plan, items)
    _update_services(inventory, observed)
    Instance.objects.bulk_update(changed, _JUDGED, batch_size=_BATCH)
    record_contact()


def _mirror_instances(observed: Mapping[str, ServiceInstance], plan: Plan, items: Mapping[str, PlanItem]) -> None:
    now = timezone.now()
    known = {row.consul_id: row for row in ObservedInstance.objects.order_by()}
    seen = set()
    new, changed = [], []
    for true_id, instance in observed.items():
        fresh = _columns(instance, plan.statuses.get(true_id, SyncStatus.UNKNOWN), items.get(true_id))
        consul_id = _cut(true_id)
        seen.add(consul_id)
        row = known.get(consul_id)
        if row is None:
            new.append(ObservedInstance(consul_id=consul_id, health_since=now, first_seen=now, **fresh))
        elif any(getattr(row, name) != value for name, value in fresh.items()):
            if row.health != fresh["health"]:
                row.health_since = now
            for name, value in fresh.items():
                setattr(row, name, value)
            changed.append(row)
    ObservedInstance.objects.bulk_create(new, batch_size=_BATCH, ignore_conflicts=True)
    ObservedInstance.objects.bulk_update(changed, [*_MIRRORED, "health_since"], batch_size=_BATCH)
    _delete(known.keys() - seen)


def _delete(gone: Collection[str]) -> None:
    names = sorted(gone)
    for start in range(0, len(names), _BATCH):
        ObservedInstance.objects.filter(consul_id__in=names[start : start + _BATCH]).delete()


def _columns(instance: ServiceInstance, status: str, item: PlanItem | None) -> dict[str, Any]:
    checks = [
        {"id": c.id, "name": c.name, "status": c.status, "output": (c.output or c.notes)[:_KEPT_OUTPUT]}
        for c in sorted(instance.checks, key=lambda check: check.id)
    ]
    return {
        "service_name": _cut(instance.service),
        "address": _cut(instance.address),
        "port": max(-(2**31), min(instance.port, 2**31 - 1)),
        "tags": storable(list(instance.tags)),
        "meta": storable(dict(instance.meta)),
        "weight": max(-(2**31), min(instance.weight, 2**31 - 1)),
        "owner": _cut(instance.owner),
        "registered_itself": instance.registered_itself,
        "sync_status": str(status),
        "sync_reason": item.reason[:500] if item else "",
        "health": str(instance.health),
        "checks": storable(checks),
    }


def _cut(text: str) -> str:
    """Text from outside as it fits into a column: Consul's agent takes IDs and names of any length."""
    return str(storable(text))[:512]


def storable(value: Any) -> Any:
    """Text from outside, also within lists and pairs, as PostgreSQL takes it: no NUL, no lone surrogates."""
    if isinstance(value, str):
        return value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [storable(one) for one in value]
    if isinstance(value, dict):
        return {storable(key): storable(content) for key, content in value.items()}
    return value


def _refreshed(
    inventory: Inventory, observed: Mapping[str, ServiceInstance], plan: Plan, items: Mapping[str, PlanItem]
) -> list[Instance]:
    """Gives every declared instance what is to be said of it now, and returns those for which that is something new."""
    departed = {one.spec.id for one in inventory.declared if one.departed}
    changed = []
    for consul_id, row in inventory.rows.items():
        item = items.get(consul_id)
        have = observed.get(consul_id)
        fresh = {
            "sync_status": str(plan.statuses.get(consul_id, _without_plan(row))),
            "sync_reason": storable(inventory.broken.get(consul_id) or (item.reason if item else ""))[:500],
            "differences": storable(item.as_dict()["changes"] if item else []),
            "departed": consul_id in departed,
            "claimed": have.owner == plan.owner or row.claimed if have else row.claimed and _is_enabled(row),
        }
        if any(getattr(row, name) != value for name, value in fresh.items()):
            for name, value in fresh.items():
                setattr(row, name, value)
            changed.append(row)
    return changed


def _without_plan(row: Instance) -> SyncStatus:
    return SyncStatus.UNKNOWN if _is_enabled(row) else SyncStatus.DISABLED


def _is_enabled(row: Instance) -> bool:
    return row.enabled and row.service.enabled


def _update_services(inventory: Inventory, observed: Mapping[str, ServiceInstance]) -> None:
    healths: dict[str, list[Health]] = {}
    for instance in observed.values():
        healths.setdefault(instance.service.lower(), []).append(instance.health)
    statuses: dict[int, list[str]] = {}
    for row in inventory.rows.values():
        statuses.setdefault(row.service_id, []).append(row.sync_status)
    changed = []
    for service in Service.objects.only("name", "enabled", "sync_status", "health").order_by():
        status = SyncStatus.DISABLED if not service.enabled else _most_pressing(statuses.get(service.pk, ()))
        health = str(Health.worst(healths.get(service.name.lower(), ())))
        if (service.sync_status, service.health) != (status, health):
            service.sync_status, service.health = status, health
            changed.append(service)
    Service.objects.bulk_update(changed, ["sync_status", "health"], batch_size=_BATCH)


def _most_pressing(statuses: Iterable[str]) -> str:
    return min(statuses, key=lambda status: _URGENCY.index(SyncStatus(status)), default=SyncStatus.SYNCED)
