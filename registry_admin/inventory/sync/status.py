"""Sync status of every declaration after a snapshot, with its reason and the state that later runs need."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from operator import attrgetter
from typing import Any

from django.db import connection
from django.utils import timezone

from registry_admin.consul import Health, ServiceInstance
from registry_admin.consul.snapshot import Snapshot
from registry_admin.inventory.bulk_update import update_rows
from registry_admin.inventory.models import SYNC_STATUSES, Instance, Service, SyncStatus
from registry_admin.inventory.sanitize import sanitized, truncated
from registry_admin.inventory.selectors import DeclaredRow, Inventory
from registry_admin.reconcile.plan import Action, Cause, Plan, PlanItem

_STATUS_FIELDS = (
    "sync_status", "sync_reason", "sync_cause", "sync_action", "differences", "departed", "departed_node",
    "claimed_datacenter", "claimed_node", "applied_digest", "evicted_at", "evicted_reason",
)  # fmt: skip
_MAX_REASON = 500


StatusValues = tuple[Any, ...]  # a value for each of _STATUS_FIELDS
_status_of = attrgetter(
    "sync_status", "sync_reason", "sync_cause", "sync_action", "differences", "departed", "departed_node",
    "evicted_at", "evicted_reason",
)  # fmt: skip
_SETTLED = (str(SyncStatus.SYNCED), "", "", "", "[]", False, "", None, "")


def record(inventory: Inventory, snapshot: Snapshot, plan: Plan, *, evictions: Mapping[str, str]) -> bool:
    """Updates the status columns of all declared instances and services; writes only changed rows.

    Runs within the caller's transaction. `evictions`: reasons of the latest evictions, by instance ID. Returns
    whether anything was written.
    """
    calculator = _StatusCalculator(inventory, plan, evictions=evictions)
    states = {row.service_pk: set[str]() for row in inventory.rows.values()}
    changed = []
    for row in inventory.rows.values():
        if calculator.is_settled(row):
            states[row.service_pk].add(row.sync_status)
        else:
            values = calculator.values_for(row)
            states[row.service_pk].add(str(values[0]))
            if values != _stored_values(row):
                changed.append((row, values))
    services = _changed_services(states, snapshot)
    _lock_services({row.service_pk for row, _ in changed} | {pk for pk, *_ in services})
    update_rows(Service, services, ["sync_status", "health"])
    update_rows(Instance, [(row.pk, *values) for row, values in changed], _STATUS_FIELDS)
    return bool(services or changed) | _record_memory(inventory, plan)


def _record_memory(inventory: Inventory, plan: Plan) -> bool:
    """Updates the former IDs that are still registered, and what is kept of maintenance mode.

    People change both as well, perhaps since the inventory was read: then their change stays.
    """
    owned = {item.id for item in plan.items if item.observed is not None and plan.owns(item.observed)}
    count = 0
    for key, row in inventory.rows.items():
        if row.former_ids and not plan.doubt:
            former_ids = [former for former in row.former_ids if former in owned and former not in inventory.rows]
            if former_ids != list(row.former_ids):
                count += Instance.objects.filter(pk=row.pk, consul_id=key).update(replaces=former_ids)
        kept = inventory.maintenance[key]
        if (kept.reason, kept.created_index) != (row.maintenance, row.maintenance_index):
            count += Instance.objects.filter(
                pk=row.pk, consul_id=key, maintenance=row.maintenance, maintenance_index=row.maintenance_index
            ).update(maintenance=kept.reason, maintenance_index=kept.created_index)
    return count > 0


class _StatusCalculator:
    """Calculates the status columns of declared instances from a snapshot and its plan."""

    def __init__(self, inventory: Inventory, plan: Plan, *, evictions: Mapping[str, str]) -> None:
        self._inventory = inventory
        self._plan = plan
        self._evictions = evictions
        self._present: Mapping[str, ServiceInstance] = plan.present
        self._items = {item.id: item for item in plan.items if item.spec is not None}
        self._departed = {
            declared.spec.id: declared.departed_node for declared in inventory.declared if declared.departed
        }
        self._now = timezone.now()

    def is_settled(self, row: DeclaredRow) -> bool:
        """Returns whether the row says already, as most do, that its instance is registered as declared.

        `values_for` would give what the row has.
        """
        key = row.consul_id
        instance, spec = self._present.get(key), self._inventory.specs.get(key)
        return (
            _status_of(row) == _SETTLED
            and instance is not None
            and spec is not None
            and key not in self._items
            and key not in self._evictions
            and row.is_enabled
            and self._plan.statuses.get(key) == SyncStatus.SYNCED
            and self._plan.owns(instance)
            and (row.claimed_datacenter, row.claimed_node) == (instance.datacenter, instance.node)
            and row.applied_digest == spec.digest
            and key not in self._departed
            and key not in self._inventory.invalid
        )

    def values_for(self, row: DeclaredRow) -> StatusValues:
        """Returns the new values of the row's status columns."""
        key = row.consul_id
        item = self._items.get(key)
        status: str = self._plan.statuses.get(key) or (SyncStatus.UNKNOWN if row.is_enabled else SyncStatus.DISABLED)
        reason = self._inventory.invalid.get(key) or (item.reason if item else "")
        cause, action = cause_and_action(item)
        evicted_at, evicted_reason = row.evicted_at, row.evicted_reason
        if key in self._present or not row.is_enabled:
            evicted_at, evicted_reason = None, ""
        elif key in self._evictions:
            evicted_at, evicted_reason = self._now, truncated(self._evictions[key], _MAX_REASON)
            status, reason = SyncStatus.EVICTED, evicted_reason
            cause, action = str(Cause.EVICTED), ""
        return (
            str(status),
            truncated(reason, _MAX_REASON),
            cause,
            action,
            sanitized(item.as_dict()["changes"]) if item else [],
            *self._departure(row, is_evicted=evicted_at is not None),
            *self._claim(row),
            self._applied_digest(row, str(status)),
            evicted_at,
            evicted_reason,
        )

    def _departure(self, row: DeclaredRow, *, is_evicted: bool) -> tuple[bool, str]:
        """Returns whether it has left by itself, and on which node."""
        is_departed = row.consul_id in self._departed and not is_evicted
        return is_departed, truncated(self._departed[row.consul_id]) if is_departed else ""

    def _claim(self, row: DeclaredRow) -> tuple[str, str]:
        """Returns datacenter and node of the claim: where it carries our mark, else where it was claimed before."""
        instance = self._present.get(row.consul_id)
        if instance is not None and self._plan.owns(instance):
            return truncated(instance.datacenter), truncated(instance.node)
        if instance is None and not row.is_enabled:
            return "", ""
        return row.claimed_datacenter, row.claimed_node

    def _applied_digest(self, row: DeclaredRow, status: str) -> str:
        instance, spec = self._present.get(row.consul_id), self._inventory.specs.get(row.consul_id)
        if instance is None or spec is None or status != SyncStatus.SYNCED or not self._plan.owns(instance):
            return row.applied_digest
        return spec.digest


def cause_and_action(item: PlanItem | None) -> tuple[str, str]:
    """Returns the cause of a difference and the action of the next run; empty texts if there is none."""
    if item is None:
        return "", ""
    return str(item.cause or ""), "" if item.action is Action.LEAVE else str(item.action)


def _stored_values(row: DeclaredRow) -> StatusValues:
    return (
        row.sync_status,
        row.sync_reason,
        row.sync_cause,
        row.sync_action,
        json.loads(row.differences) if row.differences != "[]" else [],
        row.departed,
        row.departed_node,
        row.claimed_datacenter,
        row.claimed_node,
        row.applied_digest,
        row.evicted_at,
        row.evicted_reason,
    )


def _changed_services(by_service: Mapping[int, set[str]], snapshot: Snapshot) -> list[tuple[int, str, str]]:
    """Returns key, sync status and health of every service where one of the two has changed.

    `by_service`: the sync statuses of its instances, by the service's key.
    """
    healths: dict[str, set[Health]] = {}
    for instance in (*snapshot.local.values(), *snapshot.remote):
        healths.setdefault(instance.service.lower(), set()).add(instance.known_health)
    changed = []
    services = Service.objects.order_by().values_list("pk", "name", "enabled", "sync_status", "health")
    for pk, name, enabled, former_status, former_health in services:
        sync_status: str = SyncStatus.DISABLED
        if enabled:
            sync_status = SYNC_STATUSES.most_severe(by_service.get(pk, ()), default=SyncStatus.SYNCED)
        status, health = str(sync_status), str(Health.worst(healths.get(name.lower(), ())))
        if (former_status, former_health) != (status, health):
            changed.append((pk, status, health))
    return changed


def _lock_services(keys: Collection[int]) -> None:
    """Locks the services before their instances, in the order in which their form saves them."""
    if keys and connection.features.has_select_for_update:
        list(Service.objects.select_for_update(no_key=True).filter(pk__in=keys).order_by("pk").values_list("pk"))
