"""What is said of every declaration after a look: its sync status and why, and what the next passes must remember."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from django.db import connection
from django.utils import timezone

from registry_admin.consul import Health, ServiceInstance
from registry_admin.consul.observe import Observation
from registry_admin.inventory.bulk import update_rows
from registry_admin.inventory.models import Instance, Service, SyncStatus
from registry_admin.inventory.selectors import DeclaredRow, Inventory
from registry_admin.inventory.storable import cut, storable
from registry_admin.reconcile.plan import Action, Cause, Plan, PlanItem

_JUDGED = (
    "sync_status", "sync_reason", "sync_cause", "sync_action", "differences", "departed", "claimed", "applied_digest",
    "evicted_at", "evicted_reason",
)  # fmt: skip
_MAX_REASON = 500

# The most pressing first: what a service with several instances is shown as.
_URGENCY = [
    SyncStatus.MISSING, SyncStatus.EVICTED, SyncStatus.OUT_OF_SYNC, SyncStatus.UNKNOWN, SyncStatus.SYNCED,
    SyncStatus.DISABLED,
]  # fmt: skip
_RANK = {status.value: number for number, status in enumerate(_URGENCY)}

Verdict = tuple[Any, ...]  # a value for each of _JUDGED


def record(inventory: Inventory, observation: Observation, plan: Plan, *, evictions: Mapping[str, str]) -> bool:
    """Brings every declared instance and service to it, within the caller's transaction; only what differs is written.

    `evictions`: what was just taken out, by instance ID, and why. Returns whether anything did differ.
    """
    judge = _Judge(inventory, observation, plan, evictions=evictions)
    verdicts = [(row, judge.verdict(row)) for row in inventory.rows.values()]
    changed = [(row, verdict) for row, verdict in verdicts if verdict != _former_verdict(row)]
    services = _changed_services(((row.service_pk, str(verdict[0])) for row, verdict in verdicts), observation)
    _lock_services({row.service_pk for row, _ in changed} | {pk for pk, *_ in services})
    update_rows(Service, services, ["sync_status", "health"])
    update_rows(Instance, [(row.pk, *verdict) for row, verdict in changed], _JUDGED)
    return bool(services or changed)


class _Judge:
    """Everything that a verdict is made from."""

    def __init__(
        self, inventory: Inventory, observation: Observation, plan: Plan, *, evictions: Mapping[str, str]
    ) -> None:
        self._inventory = inventory
        self._plan = plan
        self._evictions = evictions
        self._here: Mapping[str, ServiceInstance] = observation.here
        self._present = observation.here.keys() | {instance.id for instance in observation.elsewhere}
        self._items = {item.id: item for item in plan.items if item.spec is not None}
        self._departed = {one.spec.id for one in inventory.declared if one.departed}
        self._now = timezone.now()

    def verdict(self, row: DeclaredRow) -> Verdict:
        """What is to be in the row's columns now."""
        key = row.consul_id
        item = self._items.get(key)
        status: str = self._plan.statuses.get(key) or (SyncStatus.UNKNOWN if row.is_enabled else SyncStatus.DISABLED)
        reason = self._inventory.broken.get(key) or (item.reason if item else "")
        cause, action = said_to_do(item)
        evicted_at, evicted_reason = row.evicted_at, row.evicted_reason
        if key in self._present or not row.is_enabled:
            evicted_at, evicted_reason = None, ""
        elif key in self._evictions:
            evicted_at, evicted_reason = self._now, cut(self._evictions[key], _MAX_REASON)
            status, reason = SyncStatus.EVICTED, evicted_reason
            cause, action = str(Cause.EVICTED), ""
        return (
            str(status),
            cut(reason, _MAX_REASON),
            cause,
            action,
            storable(item.as_dict()["changes"]) if item else [],
            key in self._departed and evicted_at is None,
            self._is_claimed(row),
            self._applied_digest(row, str(status)),
            evicted_at,
            evicted_reason,
        )

    def _is_claimed(self, row: DeclaredRow) -> bool:
        have = self._here.get(row.consul_id)
        if have is not None:
            return row.claimed or have.owner == self._plan.owner
        return row.claimed and row.is_enabled

    def _applied_digest(self, row: DeclaredRow, status: str) -> str:
        have, spec = self._here.get(row.consul_id), self._inventory.specs.get(row.consul_id)
        if have is None or spec is None or status != SyncStatus.SYNCED or have.owner != self._plan.owner:
            return row.applied_digest
        return spec.digest


def said_to_do(item: PlanItem | None) -> tuple[str, str]:
    """What has happened to it, and what the next pass does about it; nothing where it is left alone."""
    if item is None:
        return "", ""
    return str(item.cause or ""), "" if item.action is Action.LEAVE else str(item.action)


def _former_verdict(row: DeclaredRow) -> Verdict:
    return (
        row.sync_status,
        row.sync_reason,
        row.sync_cause,
        row.sync_action,
        json.loads(row.differences) if row.differences != "[]" else [],
        row.departed,
        row.claimed,
        row.applied_digest,
        row.evicted_at,
        row.evicted_reason,
    )


def _changed_services(statuses: Iterable[tuple[int, str]], observation: Observation) -> list[tuple[int, str, str]]:
    """The key, sync status and health of every service for which they are something new."""
    most_pressing: dict[int, int] = {}
    for service_pk, status in statuses:
        most_pressing[service_pk] = min(_RANK[status], most_pressing.get(service_pk, len(_URGENCY)))
    healths: dict[str, set[Health]] = {}
    for instance in (*observation.here.values(), *observation.elsewhere):
        healths.setdefault(instance.service.lower(), set()).add(instance.health)
    changed = []
    known = Service.objects.order_by().values_list("pk", "name", "enabled", "sync_status", "health")
    for pk, name, enabled, former_status, former_health in known:
        rank = most_pressing.get(pk, _RANK[SyncStatus.SYNCED]) if enabled else _RANK[SyncStatus.DISABLED]
        status, health = _URGENCY[rank].value, str(Health.worst(healths.get(name.lower(), ())))
        if (former_status, former_health) != (status, health):
            changed.append((pk, status, health))
    return changed


def _lock_services(keys: Collection[int]) -> None:
    """Whoever saves a service by its form holds its row before those of its instances, and so do we."""
    if keys and connection.features.has_select_for_update:
        list(Service.objects.select_for_update(no_key=True).filter(pk__in=keys).order_by("pk").values_list("pk"))
