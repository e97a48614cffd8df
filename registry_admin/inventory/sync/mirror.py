"""Copying a snapshot of Consul into the database (the mirror), with a constant number of queries.

Only changed rows are written. The lock on the contact's row lets a single writer in at a time. Services are locked
before instances, in the order in which forms save them: another order could end in a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from registry_admin.consul import Place, Snapshot
from registry_admin.inventory import selectors
from registry_admin.inventory.bulk_update import BATCH, update_rows
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import (
    ConsulContact,
    HealthTransition,
    ObservationGap,
    ObservedInstance,
    SyncStatus,
)
from registry_admin.inventory.sanitize import sanitized, truncated
from registry_admin.inventory.selectors import Inventory
from registry_admin.inventory.sync import foreign_history
from registry_admin.inventory.sync import status as statuses
from registry_admin.inventory.sync.fingerprint import ObservedFields, observed_fields
from registry_admin.reconcile.plan import Plan

_NOTHING: Mapping[Any, str] = MappingProxyType({})
STATUS_COLUMNS = ("owned", "declared", "sync_status", "sync_reason", "sync_cause", "sync_action", "note")
InstanceKey = tuple[str, str]  # node and instance ID, within the one datacenter that a snapshot shows
_MAX_TEXT = 500


@transaction.atomic
def record_contact(*, problem: str = "") -> None:
    """Records that Consul has just answered; with `problem`, that it didn't and the reason."""
    contact = _locked_contact()
    if problem:
        now = timezone.now()
        if contact.reachable:
            contact.reachable, contact.since = False, now
            ObservationGap.objects.create(began_at=contact.seen_at or now, reason=problem)
        contact.revision += contact.problem != problem
        contact.problem = problem
    else:
        _mark_reachable(contact)
    contact.save()


def touch_contact() -> bool:
    """Records in one query that Consul still answers.

    Returns False if it was unreachable before: only a new snapshot ends that.
    """
    return bool(ConsulContact.objects.filter(pk=1, reachable=True).update(seen_at=timezone.now()))


@transaction.atomic
def record_snapshot(
    inventory: Inventory,
    snapshot: Snapshot,
    plan: Plan,
    *,
    read_at: datetime,
    evicted: Mapping[str, str] = _NOTHING,
    notes: Mapping[InstanceKey, str] | None = None,
    halted: str | None = None,
    divergence: Mapping[str, Any] = _NOTHING,
    on_transition: Callable[[HealthTransition], None] = lambda _transition: None,
) -> bool:
    """Updates the mirror, and the sync status of every declaration, to the snapshot that `plan` was made from.

    `read_at`: when the reading of the snapshot began. If the mirror holds a later snapshot, nothing is written and
    False is returned; a time in the future doesn't count, because then a clock was set back. `evicted`: reasons of
    the evictions since the previous snapshot, by instance ID. `notes`: remarks such as "flaps", by node and instance
    ID. `halted`: reason why evictions are halted, or empty. None leaves the last two unchanged. `divergence`: where the
    catalog differs from our agent, for the next look.
    """
    contact = _locked_contact()
    if contact.looked_at is not None and read_at < contact.looked_at <= timezone.now():
        return False
    if not contact.node:  # old rows without a node all belong to the single agent that was read then
        ObservedInstance.objects.filter(node="").update(node=truncated(snapshot.node))
    if not contact.datacenter:
        ObservedInstance.objects.filter(datacenter="").update(datacenter=truncated(snapshot.datacenter, 128))
    evictions = {**inventory.removed_by_consul, **evicted}
    transitions, has_changed = _MirrorUpdate(snapshot, plan, evictions=evictions, notes=notes).write()
    for transition in transitions:
        on_transition(transition)
    has_changed |= statuses.record(inventory, snapshot, plan, evictions=evictions)
    contact.datacenter = truncated(snapshot.datacenter, 128)
    contact.node, contact.node_id = truncated(snapshot.node), truncated(snapshot.node_id, 64)
    has_changed |= contact.doubt != (doubt := sanitized(plan.doubt))
    contact.doubt = doubt
    has_changed |= contact.uncompared != (uncompared := sanitized(selectors.uncompared_reason(snapshot)))
    contact.uncompared = uncompared
    contact.looked_at, contact.divergence = read_at, dict(divergence)
    if halted is not None:
        has_changed |= contact.halted != (halted := sanitized(halted))
        contact.halted = halted
    contact.revision += has_changed
    _mark_reachable(contact)
    contact.save()
    return True


def _mark_reachable(contact: ConsulContact) -> None:
    """Marks Consul as reachable; a long time since its previous answer becomes an observation gap."""
    now = timezone.now()
    if not contact.reachable:
        ObservationGap.objects.filter(ended_at=None).update(ended_at=now)
        contact.reachable, contact.since, contact.problem = True, now, ""
        contact.revision += 1
    elif contact.seen_at is not None and (now - contact.seen_at).total_seconds() > conf.stale_after_s:
        ObservationGap.objects.create(began_at=contact.seen_at, ended_at=now, reason="No watcher was running.")
        contact.revision += 1
    contact.seen_at = now


def _locked_contact() -> ConsulContact:
    locked = ConsulContact.objects.select_for_update().filter(pk=1)
    contact = locked.first()
    if contact is None:
        ConsulContact.objects.bulk_create([ConsulContact(pk=1)], ignore_conflicts=True)
        contact = locked.get()
    return contact


class _MirrorRow(NamedTuple):
    """Row of the mirror, with the columns that a comparison needs."""

    pk: int
    datacenter: str
    node: str
    consul_id: str
    service: str
    fingerprint: str
    health: str
    status_values: tuple[bool | str, ...]  # the columns of STATUS_COLUMNS

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> _MirrorRow:
        """Returns the row of a query for `_MIRROR_COLUMNS` and `STATUS_COLUMNS`."""
        return cls._make((*values[: len(_MIRROR_COLUMNS)], values[len(_MIRROR_COLUMNS) :]))


_MIRROR_COLUMNS = ("pk", "datacenter", "node", "consul_id", "service_name", "fingerprint", "health")
_PLACE = slice(1, 4)  # of a row's values: equal to its `Place`
_CHANGING = slice(_MIRROR_COLUMNS.index("fingerprint"), None)


class _MirrorUpdate:
    """Update of the mirror by one snapshot: collects the differences first, then writes them."""

    def __init__(
        self, snapshot: Snapshot, plan: Plan, *, evictions: Mapping[str, str], notes: Mapping[InstanceKey, str] | None
    ) -> None:
        self._plan = plan
        self._notes = notes
        datacenter, node = truncated(snapshot.datacenter, 128), truncated(snapshot.node)
        self._evicted = {
            Place(datacenter, node, truncated(key)): sanitized(reason) for key, reason in evictions.items()
        }
        observed = observed_fields((*snapshot.local.values(), *snapshot.remote))
        self._observed = {fields.place: fields for fields in observed}  # IDs too long for a column can become the same
        self._items = {item.observed.place: item for item in plan.items if item.observed is not None}
        self._declared = plan.declared_places
        self._now = timezone.now()
        self._new: list[ObservedInstance] = []
        self._changed: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}  # rows to update, by the columns to write
        self._transitions: list[HealthTransition] = []
        self._changed_foreign: set[InstanceKey] = set()

    def write(self) -> tuple[list[HealthTransition], bool]:
        """Writes the differences, in two queries and one more for each kind of change.

        Returns the changes of health, and whether anything was written.
        """
        rows = ObservedInstance.objects.order_by().values_list(*_MIRROR_COLUMNS, *STATUS_COLUMNS)
        stored = {row[_PLACE]: row for row in rows}
        for place, fields in self._observed.items():
            values = stored.pop(place, None)
            status_values = self._status_values(fields, note=values[-1] if values is not None else "")
            if values is None:
                self._compare(fields, status_values, None)
            elif values[_CHANGING] != (fields.fingerprint, fields.health, *status_values) or place in self._evicted:
                self._compare(fields, status_values, _MirrorRow.of(values))
        mirrored = [_MirrorRow.of(values) for values in stored.values()]
        for row in mirrored:
            eviction_reason = self._evicted.get(Place(row.datacenter, row.node, row.consul_id), "")
            self._add_removal(row, after=HealthTransition.EVICTED if eviction_reason else "", output=eviction_reason)
            self._note_change((row.node, row.consul_id), row.status_values)
        _delete([row.pk for row in mirrored])
        ObservedInstance.objects.bulk_create(self._new, batch_size=BATCH, ignore_conflicts=True)
        for columns, changed in sorted(self._changed.items()):
            update_rows(ObservedInstance, changed, columns)
        transitions = HealthTransition.objects.bulk_create(self._transitions, batch_size=BATCH)
        foreign_history.trim(self._changed_foreign)
        return transitions, bool(mirrored or self._new or self._changed or transitions)

    def _compare(self, fields: ObservedFields, status_values: tuple[bool | str, ...], row: _MirrorRow | None) -> None:
        eviction_reason = self._evicted.get(fields.place) if row is not None else None
        if row is not None and eviction_reason is not None:  # evicted, and registered again before this snapshot
            self._add_removal(row, after=HealthTransition.EVICTED, output=eviction_reason)
        before = row.health if row is not None and eviction_reason is None else ""
        if before != fields.health:
            self._add_health_change(fields, before=before)
            self._note_change((fields.place.node, fields.place.id), status_values)
        if row is None:
            fresh = {
                **fields.columns(),
                **dict(zip(STATUS_COLUMNS, status_values, strict=True)),
                "health_since": self._now,
            }
            self._new.append(ObservedInstance(first_seen=self._now, **fresh))
            return
        columns: dict[str, Any] = {}
        if before != fields.health:
            columns |= {"health": fields.health, "health_since": self._now}
        if not fields.has_registration(row.fingerprint):
            columns |= fields.registration_columns()
        if row.fingerprint != fields.fingerprint:
            columns |= fields.check_columns()
        if row.status_values != status_values:
            columns |= zip(STATUS_COLUMNS, status_values, strict=True)
        if columns:
            self._changed.setdefault(tuple(columns), []).append((row.pk, *columns.values()))

    def _note_change(self, key: InstanceKey, status_values: tuple[bool | str, ...]) -> None:
        is_owned, is_declared, *_ = status_values
        if not is_owned and not is_declared:
            self._changed_foreign.add(key)

    def _status_values(self, fields: ObservedFields, *, note: str) -> tuple[bool | str, ...]:
        """Values of `STATUS_COLUMNS`: those that come from the plan, not from Consul. `note`: the present one."""
        place = fields.instance.place
        if self._notes is not None:
            note = truncated(self._notes.get((place.node, place.id), ""), _MAX_TEXT)
        status = str(self._plan.observed.get(place, SyncStatus.UNKNOWN))
        is_owned, is_declared = self._plan.owns(fields.instance), place in self._declared
        item = self._items.get(place)
        reason = truncated(item.reason, _MAX_TEXT) if item else ""
        return is_owned, is_declared, status, reason, *statuses.cause_and_action(item), note

    def _add_health_change(self, fields: ObservedFields, *, before: str) -> None:
        self._transitions.append(
            HealthTransition(
                at=self._now,
                node=fields.place.node,
                consul_id=fields.place.id,
                service_name=truncated(fields.instance.service),
                before=before,
                after=fields.health,
                output=sanitized(fields.output),
            )
        )

    def _add_removal(self, row: _MirrorRow, *, after: str, output: str) -> None:
        self._transitions.append(
            HealthTransition(
                at=self._now,
                node=row.node,
                consul_id=row.consul_id,
                service_name=row.service,
                before=row.health,
                after=after,
                output=output,
            )
        )


def _delete(keys: list[int]) -> None:
    for start in range(0, len(keys), BATCH):
        ObservedInstance.objects.filter(pk__in=keys[start : start + BATCH]).delete()
