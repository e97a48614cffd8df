"""Numbers of the mirror and of the counters, in a number of queries that doesn't grow with the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.db.models import Count, Value
from django.db.models.functions import Lower

from registry_admin.inventory.cache import cached
from registry_admin.inventory.models import (
    SYNC_STATUSES,
    EventCounter,
    EvictionHalt,
    Health,
    Instance,
    ObservedInstance,
    Service,
    SyncStatus,
)
from registry_admin.inventory.selectors import state_stamp

ABSENT = "absent"  # in place of a health: the instance isn't in Consul

Labels = tuple[str, str, str]  # service, sync status, health


def instance_counts(*, is_current: bool) -> Mapping[Labels, int]:
    """Returns the number of instances by labels. Two queries; one where nothing has changed since.

    Services that aren't declared are summed under an empty name: anybody may register as many as they like. Unless
    the mirror `is_current`, sync status and health are unknown, as they are on pages.
    """
    counts: Counter[Labels] = Counter()
    for service, sync, health, number in cached("metrics-instances", state_stamp(), _instance_counts):
        counts[(service, sync, health) if is_current else (service, SyncStatus.UNKNOWN, Health.UNKNOWN)] += number
    return counts


def _instance_counts() -> list[list[Any]]:
    names = dict(Service.objects.order_by().annotate(key=Lower("name")).values_list("key", "name"))
    present = ObservedInstance.objects.order_by().values_list(Lower("service_name"), "sync_status", "health")
    absent = (
        Instance.objects.filter(enabled=True, sync_status__in=SYNC_STATUSES.absent)
        .order_by()
        .values_list(Lower("service__name"), "sync_status", Value(ABSENT))
    )
    counts: Counter[Labels] = Counter()
    for instances in (present, absent):
        for key, sync, health, number in instances.annotate(number=Count("pk")):
            counts[names.get(key, ""), sync, health] += number
    return [[*labels, number] for labels, number in counts.items()]


def open_halts() -> int:
    """Returns how many halts of eviction go on."""
    return EvictionHalt.objects.filter(ended_at=None).count()


def totals() -> dict[tuple[str, str], float]:
    """Returns the counters by name and label."""
    rows = EventCounter.objects.order_by().values_list("name", "label", "total")
    return {(name, label): total for name, label, total in rows}
