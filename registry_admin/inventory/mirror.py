"""Writing down what was seen in Consul: only rows that changed, in a number of queries that doesn't grow with them.

One at a time, by the contact's row, and services before instances, as forms save them: otherwise two could wait for
each other's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from registry_admin.consul.observe import Observation
from registry_admin.inventory import judgement
from registry_admin.inventory.bulk import BATCH, update_rows
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import (
    ConsulContact,
    HealthTransition,
    ObservationGap,
    ObservedInstance,
    SyncStatus,
)
from registry_admin.inventory.seen import Place, Seen, seen_of
from registry_admin.inventory.selectors import Inventory
from registry_admin.inventory.storable import cut, storable
from registry_admin.reconcile.plan import Plan

_NOTHING: Mapping[Any, str] = MappingProxyType({})
_SAID = ("sync_status", "sync_reason", "sync_cause", "sync_action", "note")
_MAX_TEXT = 500


@transaction.atomic
def record_contact(*, problem: str = "") -> None:
    """Notes that Consul has just answered, or why it didn't."""
    contact = _locked_contact()
    if problem:
        now = timezone.now()
        if contact.reachable:
            contact.reachable, contact.since = False, now
            ObservationGap.objects.create(began_at=contact.seen_at or now, reason=problem)
        contact.revision += contact.problem != problem
        contact.problem = problem
    else:
        _answered(contact)
    contact.save()


def contact_seen() -> bool:
    """Notes that Consul answers still, in one query; False where it didn't before, because then only a look helps."""
    return bool(ConsulContact.objects.filter(pk=1, reachable=True).update(seen_at=timezone.now()))


@transaction.atomic
def record_observation(
    inventory: Inventory,
    observation: Observation,
    plan: Plan,
    *,
    looked_at: datetime,
    evicted: Mapping[str, str] = _NOTHING,
    notes: Mapping[Place, str] | None = None,
    halted: str | None = None,
    on_transition: Callable[[HealthTransition], None] = lambda _transition: None,
) -> bool:
    """Brings the mirror, and what is said of every declaration, to what `plan` was made from.

    `looked_at`: when the look began; where the mirror shows a later one, nothing is written, and False returned (one
    that is yet to come is none: a clock was set back). `evicted`: what was evicted since the look before, by instance
    ID, and why. `notes`: by node and instance ID, such as that it flaps. `halted`: why nothing is evicted now. None,
    from who can't know, leaves the last two as they are.
    """
    contact = _locked_contact()
    if contact.looked_at is not None and looked_at < contact.looked_at <= timezone.now():
        return False
    if not contact.node:  # rows from before nodes were told apart are all of the one agent that was looked at then
        ObservedInstance.objects.filter(node="").update(node=cut(observation.node))
    evictions = {**inventory.taken_out, **evicted}
    transitions, is_news = _Mirroring(observation, plan, evictions=evictions, notes=notes).write()
    for transition in transitions:
        on_transition(transition)
    is_news |= judgement.record(inventory, observation, plan, evictions=evictions)
    contact.node, contact.node_id = cut(observation.node), cut(observation.node_id, 64)
    contact.looked_at = looked_at
    if halted is not None:
        is_news |= contact.halted != (halted := storable(halted))
        contact.halted = halted
    contact.revision += is_news
    _answered(contact)
    contact.save()
    return True


def _answered(contact: ConsulContact) -> None:
    """Consul has just answered; the time since it last did, if that was long, is one of which nothing is known."""
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


class _Known(NamedTuple):
    """What is read of the mirror."""

    pk: int
    node: str
    consul_id: str
    service: str
    fingerprint: str
    health: str
    said: tuple[str, ...]  # the columns of _SAID


_KNOWN = ("pk", "node", "consul_id", "service_name", "fingerprint", "health")


class _Mirroring:
    """One observation on its way into the mirror: what differs is collected first, and written then."""

    def __init__(
        self, observation: Observation, plan: Plan, *, evictions: Mapping[str, str], notes: Mapping[Place, str] | None
    ) -> None:
        self._plan = plan
        self._notes = notes
        self._own_node = observation.node
        self._evictions = evictions
        self._evicted = {(cut(observation.node), cut(key)): storable(why) for key, why in evictions.items()}
        found = seen_of((*observation.here.values(), *observation.elsewhere))
        self._seen = {seen.place: seen for seen in found}  # IDs too long for a column can become the same
        self._items = {(item.node, item.id): item for item in plan.items if item.observed is not None}
        self._now = timezone.now()
        self._new: list[ObservedInstance] = []
        self._changed: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}  # by the columns that are to be written
        self._transitions: list[HealthTransition] = []

    def write(self) -> tuple[list[HealthTransition], bool]:
        """In two queries, and one more for every kind of change that there is.

        Returns how health has changed, and whether anything was written.
        """
        rows = ObservedInstance.objects.order_by().values_list(*_KNOWN, *_SAID)
        known = {(row[1], row[2]): _Known._make((*row[: len(_KNOWN)], row[len(_KNOWN) :])) for row in rows}
        for seen in self._seen.values():
            self._compare(seen, known.pop(seen.place, None))
        for row in known.values():
            why = self._evicted.get((row.node, row.consul_id), "")
            self._note(row, after=HealthTransition.EVICTED if why else "", output=why)
        _delete([row.pk for row in known.values()])
        ObservedInstance.objects.bulk_create(self._new, batch_size=BATCH, ignore_conflicts=True)
        for columns, changed in sorted(self._changed.items()):
            update_rows(ObservedInstance, changed, columns)
        transitions = HealthTransition.objects.bulk_create(self._transitions, batch_size=BATCH)
        return transitions, bool(known or self._new or self._changed or transitions)

    def _compare(self, seen: Seen, row: _Known | None) -> None:
        said = self._said_of(seen, row)
        why = self._evicted.get(seen.place) if row is not None else None
        if row is not None and why is not None:  # and was back before anybody looked
            self._note(row, after=HealthTransition.EVICTED, output=why)
        before = row.health if row is not None and why is None else ""
        if before != seen.health:
            self._note_health(seen, before=before)
        if row is None:
            fresh = {**seen.columns(), **dict(zip(_SAID, said, strict=True)), "health_since": self._now}
            self._new.append(ObservedInstance(first_seen=self._now, **fresh))
        elif before != seen.health:
            self._change(row, seen.columns() | {"health_since": self._now}, said)
        elif row.fingerprint != seen.fingerprint:
            self._change(row, seen.columns(), said)
        elif row.said != said:
            self._change(row, {}, said)

    def _said_of(self, seen: Seen, row: _Known | None) -> tuple[str, ...]:
        """The columns of _SAID: what we say of it, where the rest is what Consul says."""
        node, key = place = seen.instance.node, seen.instance.id
        former_note = row.said[-1] if row is not None else ""
        is_here = node == self._own_node
        status = self._plan.statuses.get(key) if is_here else self._plan.elsewhere.get(place)
        item = self._items.get(place)
        reason = cut(item.reason, _MAX_TEXT) if item else ""
        note = cut(self._notes.get(place, ""), _MAX_TEXT) if self._notes is not None else former_note
        return str(status or SyncStatus.UNKNOWN), reason, *judgement.said_to_do(item), note

    def _change(self, row: _Known, columns: Mapping[str, Any], said: tuple[str, ...]) -> None:
        fresh = {**columns, **dict(zip(_SAID, said, strict=True))}
        self._changed.setdefault(tuple(fresh), []).append((row.pk, *fresh.values()))

    def _note_health(self, seen: Seen, *, before: str) -> None:
        node, key = seen.place
        self._transitions.append(
            HealthTransition(
                at=self._now,
                node=node,
                consul_id=key,
                service_name=cut(seen.instance.service),
                before=before,
                after=seen.health,
                output=storable(seen.instance.output),
            )
        )

    def _note(self, row: _Known, *, after: str, output: str) -> None:
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
