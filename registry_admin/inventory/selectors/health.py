"""How health has gone: who is critical and since when, who was evicted lately, and who flaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q

from registry_admin.inventory.models import Health, HealthTransition, ObservedInstance

EVICTIONS_COUNT_FOR = timedelta(hours=1)
FLAPPING_WITHIN = timedelta(minutes=10)
FLAPPING_FROM = 6

Place = tuple[str, str]  # node and instance ID


def critical_since(node: str) -> dict[str, datetime]:
    """Since when each instance of this node is critical that was at the last look, by instance ID. One query."""
    rows = ObservedInstance.objects.filter(node=node, health=Health.CRITICAL).order_by()
    return dict(rows.values_list("consul_id", "health_since"))


def output_of(checks: Iterable[Mapping[str, Any]]) -> str:
    """What the mirrored checks that aren't passing say, a line each."""
    return "\n".join(str(check["output"]) for check in checks if check["status"] != "passing" and check["output"])


@dataclass(frozen=True, kw_only=True)
class RecentChanges:
    """How often each was evicted within the last hour, and what to say of each that flaps."""

    evictions: Mapping[Place, int]
    flapping: Mapping[Place, str]


def recent_changes(now: datetime) -> RecentChanges:
    """Flapping is to change between passing, warning and critical six times within ten minutes. One query."""
    swings = [Health.PASSING, Health.WARNING, Health.CRITICAL]  # what people do, such as maintenance, is none
    swung = Q(at__gt=now - FLAPPING_WITHIN, before__in=swings, after__in=swings)
    places = (
        HealthTransition.objects.filter(at__gt=now - EVICTIONS_COUNT_FOR)
        .order_by()
        .values_list("node", "consul_id")
        .annotate(evictions=Count("pk", filter=Q(after=HealthTransition.EVICTED)), changes=Count("pk", filter=swung))
        .filter(Q(evictions__gt=0) | Q(changes__gte=FLAPPING_FROM))
    )
    evictions, flapping = {}, {}
    for node, consul_id, evicted, changes in places:
        if evicted:
            evictions[node, consul_id] = evicted
        if changes >= FLAPPING_FROM:
            minutes = FLAPPING_WITHIN // timedelta(minutes=1)
            flapping[node, consul_id] = f"flapping: {changes} changes in {minutes} min"
    return RecentChanges(evictions=evictions, flapping=flapping)
