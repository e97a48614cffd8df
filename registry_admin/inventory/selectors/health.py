"""Recent health of instances: since when they are critical, how often they were evicted, and which of them flap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q

from registry_admin.inventory.models import EvictionHalt, Health, HealthTransition, ObservationGap, ObservedInstance
from registry_admin.reconcile.outage import GroupKind

EVICTIONS_WINDOW = timedelta(hours=1)
FLAPPING_WINDOW = timedelta(minutes=10)
FLAPPING_CHANGES = 6
RELAPSE_WINDOW = timedelta(minutes=10)

InstanceKey = tuple[str, str]  # node and instance ID


def critical_since(node: str, *, starting: bool | None = None) -> dict[str, datetime]:
    """Returns since when each instance of this node is critical, or starting, by instance ID. One query.

    An instance that is starting is critical in Consul, and Unknown in the mirror. `starting`: those only, or none.
    """
    healths = {None: [Health.CRITICAL, Health.UNKNOWN], True: [Health.UNKNOWN], False: [Health.CRITICAL]}[starting]
    rows = ObservedInstance.objects.filter(node=node, health__in=healths).order_by()
    return dict(rows.values_list("consul_id", "health_since"))


def observed_s(since: datetime, until: datetime, gaps: Iterable[ObservationGap]) -> float:
    """Returns the seconds between two times, without those in the observation gaps."""
    seconds = (until - since).total_seconds()
    for gap in gaps:
        seconds -= max(0.0, (min(gap.ended_at or until, until) - max(gap.began_at, since)).total_seconds())
    return max(seconds, 0.0)


def failing_output(checks: Iterable[Mapping[str, Any]]) -> str:
    """Returns the output of the mirrored checks that aren't passing, a line each."""
    return "\n".join(str(check["output"]) for check in checks if check["status"] != "passing" and check["output"])


@dataclass(frozen=True, kw_only=True)
class RecentChanges:
    """Evictions within the last hour, and a remark on each instance that flaps, by node and instance ID."""

    evictions: Mapping[InstanceKey, int]
    flapping: Mapping[InstanceKey, str]


def recent_halts(now: datetime) -> list[EvictionHalt]:
    """Returns the halts of eviction that go on, or have ended within the last hour. One query."""
    return list(EvictionHalt.objects.filter(Q(ended_at=None) | Q(ended_at__gt=now - EVICTIONS_WINDOW)))


def recent_changes(now: datetime, *, halts: Iterable[EvictionHalt] = ()) -> RecentChanges:
    """Returns the recent changes. An instance flaps if it changed its health six times in ten minutes. One query.

    Changes during the `halts` don't count for the instances of their groups: they are the outage's.
    """
    checked = [Health.PASSING, Health.WARNING, Health.CRITICAL]  # maintenance is switched by people
    by_checks = Q(at__gt=now - FLAPPING_WINDOW, before__in=checked, after__in=checked)
    rows = (
        HealthTransition.objects.filter(at__gt=now - EVICTIONS_WINDOW)
        .exclude(_in_any(halts))
        .order_by()
        .values_list("node", "consul_id")
        .annotate(
            evictions=Count("pk", filter=Q(after=HealthTransition.EVICTED)), changes=Count("pk", filter=by_checks)
        )
        .filter(Q(evictions__gt=0) | Q(changes__gte=FLAPPING_CHANGES))
    )
    evictions, flapping = {}, {}
    for node, consul_id, evicted, changes in rows:
        if evicted:
            evictions[node, consul_id] = evicted
        if changes >= FLAPPING_CHANGES:
            minutes = FLAPPING_WINDOW // timedelta(minutes=1)
            flapping[node, consul_id] = f"flapping: {changes} changes in {minutes} min"
    return RecentChanges(evictions=evictions, flapping=flapping)


def relapses(now: datetime, keys: Iterable[InstanceKey]) -> dict[InstanceKey, int]:
    """Returns how often in a row each of these evicted instances was evicted again soon after its return.

    That is: critical again within ten minutes after it was registered, within the last hour. One query.
    """
    evicted = frozenset(keys)
    if not evicted:
        return {}
    rows = (
        HealthTransition.objects.filter(at__gt=now - EVICTIONS_WINDOW, consul_id__in={key for _, key in evicted})
        .order_by("at", "pk")
        .values_list("node", "consul_id", "before", "after", "at")
    )
    counts: dict[InstanceKey, int] = {}
    returned: dict[InstanceKey, datetime] = {}
    failed: dict[InstanceKey, datetime] = {}
    for node, consul_id, before, after, at in rows:
        key = (node, consul_id)
        if key not in evicted:
            continue
        if after == HealthTransition.EVICTED:
            is_relapse = key in returned and failed.get(key, at) - returned.pop(key) <= RELAPSE_WINDOW
            counts[key] = counts.get(key, 0) + 1 if is_relapse else 0
        elif not before and key in counts:
            returned[key] = at
        if after == Health.CRITICAL:
            failed[key] = at
    return counts


def _in_any(halts: Iterable[EvictionHalt]) -> Q:
    during = Q(pk__in=[])
    for halt in halts:
        period = Q(at__gte=halt.began_at) & (Q(at__lte=halt.ended_at) if halt.ended_at else Q())
        if halt.kind == GroupKind.NODE:
            period &= Q(node__iexact=halt.name)
        elif halt.kind == GroupKind.SERVICE:
            period &= Q(service_name__iexact=halt.name)
        during |= period
    return during
