"""What the bars of services are made from: changes of health, what is there now, and times when nobody looked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from django.db.models import Q
from django.db.models.functions import Lower

from registry_admin.dashboard.availability import Availability, Stretch, measure, stretches, window_of
from registry_admin.inventory.models import HealthTransition, ObservationGap, ObservedInstance

MAX_CHANGES = 20_000  # of one look; what is older than that shows as no data


Place = tuple[str, str, str]  # lower-case service name, node and instance ID
Current = Mapping[Place, tuple[str, datetime]]  # what it is now, and when it was first seen


def availability_of(
    names: Collection[str], *, now: datetime, window: timedelta, buckets: int, there: Current | None = None
) -> dict[str, Availability]:
    """The bars of these services, by lower-case name. Three queries, or two if what is there now is given."""
    wanted = {name.lower() for name in names}
    if not wanted:
        return {}
    began, ended = window_of(now, window)
    changes: dict[Place, list[tuple[datetime, str, str]]] = defaultdict(list)
    rows = HealthTransition.objects.alias(lower=Lower("service_name")).filter(lower__in=wanted, at__gt=began)
    newest = rows.order_by("-at", "-pk").values_list("service_name", "node", "consul_id", "at", "before", "after")
    for name, node, consul_id, at, before, after in reversed(newest[:MAX_CHANGES]):
        changes[name.lower(), node, consul_id].append((at, before, after))
    now_there = _there(wanted) if there is None else there
    found: dict[str, list[list[Stretch]]] = defaultdict(list)
    for place in changes.keys() | now_there.keys():
        health, first_seen = now_there.get(place, ("", None))
        lived = stretches(changes.get(place, ()), current=health, since=first_seen, began=began, now=now)
        found[place[0]].append(lived)
    gaps = list(_gaps(began, now))
    return {name: measure(found[name], gaps, began=began, ended=ended, buckets=buckets) for name in wanted}


def _there(names: Collection[str]) -> Current:
    rows = (
        ObservedInstance.objects.annotate(lower=Lower("service_name"))
        .filter(lower__in=names)
        .order_by()
        .values_list("lower", "node", "consul_id", "health", "first_seen")
    )
    return {(name, node, key): (health, first_seen) for name, node, key, health, first_seen in rows}


def _gaps(began: datetime, now: datetime) -> Iterable[tuple[datetime, datetime]]:
    within = Q(ended_at=None) | Q(ended_at__gt=began)
    for gap_began, gap_ended in ObservationGap.objects.filter(within).values_list("began_at", "ended_at"):
        yield gap_began, gap_ended or now
