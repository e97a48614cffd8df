"""Confirming eviction halts: a person says that instances that fail together are dead."""

from __future__ import annotations

from django.db.models import QuerySet
from django.utils import timezone

from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.models import AuditEvent, EvictionHalt


def confirm_halts(halts: QuerySet[EvictionHalt]) -> int:
    """Confirms those of the halts that go on, so that the watcher evicts their instances; returns how many.

    What is confirmed are the instances that are down at this moment, and only until they pass again.
    """
    open_halts = halts.filter(ended_at=None, confirmed_at=None)
    names = ", ".join(str(halt) for halt in open_halts)
    confirmed = open_halts.update(confirmed_at=timezone.now(), confirmed_by=current_actor().name[:150] or "unknown")
    if confirmed:
        record_act(AuditEvent.Action.HALT_CONFIRMED, target=names)
    return confirmed
