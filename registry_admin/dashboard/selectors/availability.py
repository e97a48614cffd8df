"""Availability of services, from changes of health, their health now, and gaps of observation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from django.db.models import Q
from django.db.models.functions import Lower

from registry_admin.dashboard.availability import Availability, HealthPeriod, health_periods, measure, window_of
from registry_admin.inventory.models import Health, HealthTransition, ObservationGap, ObservedInstance

MAX_CHANGES = 20_000  # of one page; older changes show as no data


Place = tuple[str, str, str]  # lower-case service name as the database has it, node and instance ID
Current = Mapping[Place, tuple[str, datetime]]  # health now, and the time of the first observation


def availability_of(
    keys: Collection[str], *, now: datetime, window: timedelta, bar_count: int, current: Current | None = None
) -> dict[str, Availability]:
    """Returns the availability of each service. Three queries, or two with `current`.

    `keys`: names in lower case as the database makes it, which differs from Python's for letters such as `\u0130`.
    """
    if not keys:
        return {}
    start, end = window_of(now, window)
    changes: dict[Place, list[tuple[datetime, str, str]]] = defaultdict(list)
    rows = HealthTransition.objects.annotate(lower=Lower("service_name")).filter(lower__in=keys, at__gt=start)
    newest = rows.order_by("-at", "-pk").values_list("lower", "node", "consul_id", "at", "before", "after", "output")
    for key, node, consul_id, at, before, after, output in reversed(newest[:MAX_CHANGES]):
        # Consul registers a check as critical, without output: until its first run nothing is known.
        is_starting = before == "" and after == Health.CRITICAL and not output
        changes[key, node, consul_id].append((at, before, str(Health.UNKNOWN) if is_starting else after))
    current_health = _current_health(keys) if current is None else current
    periods: dict[str, list[list[HealthPeriod]]] = defaultdict(list)
    for place in changes.keys() | current_health.keys():
        health, first_seen = current_health.get(place, ("", None))
        life = health_periods(changes.get(place, ()), current=health, since=first_seen, start=start, now=now)
        periods[place[0]].append(life)
    gaps = list(_gaps(start, now))
    return {key: measure(periods[key], gaps, start=start, end=end, bar_count=bar_count) for key in keys}


def _current_health(keys: Collection[str]) -> Current:
    rows = (
        ObservedInstance.objects.annotate(lower=Lower("service_name"))
        .filter(lower__in=keys)
        .order_by()
        .values_list("lower", "node", "consul_id", "health", "first_seen")
    )
    return {(key, node, consul_id): (health, first_seen) for key, node, consul_id, health, first_seen in rows}


def _gaps(start: datetime, now: datetime) -> Iterable[tuple[datetime, datetime]]:
    within = Q(ended_at=None) | Q(ended_at__gt=start)
    for gap_start, gap_end in ObservationGap.objects.filter(within).values_list("began_at", "ended_at"):
        yield gap_start, gap_end or now
