"""What is more pressing than what, in Python and in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import Case, IntegerField, When

from registry_admin.inventory.models import Health, SyncStatus

# The most pressing first.
HEALTHS = [Health.CRITICAL, Health.WARNING, Health.MAINTENANCE, Health.UNKNOWN, Health.PASSING]
SYNCS = [
    SyncStatus.MISSING, SyncStatus.EVICTED, SyncStatus.OUT_OF_SYNC, SyncStatus.UNKNOWN, SyncStatus.DISABLED,
    SyncStatus.UNMANAGED, SyncStatus.SYNCED,
]  # fmt: skip
UNWELL = [Health.CRITICAL, Health.WARNING]
UNSYNCED = [SyncStatus.MISSING, SyncStatus.EVICTED, SyncStatus.OUT_OF_SYNC]
GONE = frozenset({SyncStatus.MISSING, SyncStatus.EVICTED})


def rank(column: str, order: Sequence[str]) -> Case:
    """Its place in the order, as a number that the database can sort by."""
    whens = [When(**{column: value}, then=number) for number, value in enumerate(order)]
    return Case(*whens, default=len(order) - 1, output_field=IntegerField())
