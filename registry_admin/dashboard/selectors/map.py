"""Who calls whom, added up over a stretch of time, and how the services are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, FloatField, Max, Min, Sum
from django.db.models.functions import Cast, Lower

from registry_admin.dashboard.selectors.urgency import HEALTHS, rank
from registry_admin.inventory.models import CallCount, ObservedInstance, Service

WINDOWS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
MAX_DRAWN = 60
MAX_LISTED = 300
NOTABLE_FAILURES = 0.01
SORTS = {
    "caller": "caller",
    "called": "called",
    "calls": "-calls_sum",
    "failures": "-failure_share",
    "mean": "-mean_ms",
    "slowest": "-slowest",
}


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The calls of one service to another."""

    caller: str
    called: str
    calls: int
    failures: int
    mean_ms: float
    slowest_ms: float
    last: datetime
    per_minute: float

    @property
    def failure_share(self) -> float:
        """In percent."""
        return 100 * self.failures / self.calls if self.calls else 0.0

    @property
    def is_failing(self) -> bool:
        """Whether so many fail that it is to be seen."""
        return self.failures > NOTABLE_FAILURES * self.calls


@dataclass(frozen=True, kw_only=True)
class Map:
    """All of it: the edges, the health of every service by lower-case name, and those that nobody is known to call."""

    edges: list[Edge]
    healths: dict[str, str]
    alone: list[str]

    def drawing(self, *, current: bool) -> dict[str, Any]:
        """What map.js draws: the busiest pairs. Where Consul can't be seen, no health is shown as known."""
        busiest = sorted(self.edges, key=lambda edge: -edge.calls)[:MAX_DRAWN]
        names = sorted({name for edge in busiest for name in (edge.caller, edge.called)})
        nodes = [
            {"name": name, "health": self.healths.get(name.lower(), "unknown") if current else "unknown"}
            for name in names
        ]
        edges = [
            {
                "from": edge.caller,
                "to": edge.called,
                "label": _label(edge),
                "failing": edge.is_failing,
                "calls": edge.calls,
            }
            for edge in busiest
        ]
        return {"nodes": nodes, "edges": edges}


def _label(edge: Edge) -> str:
    rate = f"{edge.per_minute:.0f}/min" if edge.per_minute >= 1 else f"{edge.calls} calls"
    return f"{rate}, {edge.failure_share:.1f} % fail" if edge.is_failing else rate


def service_map(*, window: str, sort: str, now: datetime) -> Map:
    """Three queries."""
    length = WINDOWS[window]
    rows = (
        CallCount.objects.filter(at__gte=now - length)
        .order_by()
        .values("caller", "called")
        .annotate(
            calls_sum=Sum("calls"),
            failures_sum=Sum("failures"),
            slowest=Max("slowest_ms"),
            last=Max("at"),
            mean_ms=Sum("milliseconds") / Cast(Sum("calls"), FloatField()),
            failure_share=Cast(Sum("failures"), FloatField()) / Cast(Sum("calls"), FloatField()),
            first=Min("at"),
        )
        .filter(calls_sum__gt=0)
    )
    descending = sort.startswith("-")
    order = SORTS[sort.removeprefix("-")]
    if descending:
        order = order[1:] if order.startswith("-") else f"-{order}"
    edges = []
    for row in rows.order_by(order, "caller", "called")[:MAX_LISTED]:
        minutes = max(5.0, min(length, now - row["first"]).total_seconds() / 60)
        edges.append(
            Edge(
                caller=row["caller"],
                called=row["called"],
                calls=row["calls_sum"],
                failures=row["failures_sum"],
                mean_ms=row["mean_ms"],
                slowest_ms=row["slowest"],
                last=min(now, row["last"] + timedelta(minutes=5)),
                per_minute=row["calls_sum"] / minutes,
            )
        )
    names = dict(Service.objects.order_by("name").values_list("name", "health"))
    healths = {name.lower(): health for name, health in names.items()}
    known = {name.lower() for edge in edges for name in (edge.caller, edge.called)}
    healths |= _foreign_healths(known - healths.keys())
    return Map(edges=edges, healths=healths, alone=[name for name in names if name.lower() not in known][:500])


def _foreign_healths(names: Iterable[str]) -> dict[str, str]:
    rows = (
        ObservedInstance.objects.annotate(key=Lower("service_name"))
        .filter(key__in=list(names))
        .order_by()
        .values("key")
        .annotate(worst=Min(rank("health", HEALTHS)))
    )
    return {row["key"]: str(HEALTHS[row["worst"]]) for row in rows}


def calls_stamp() -> object:
    """Something that differs once calls were reported. One query."""
    return CallCount.objects.order_by().aggregate(newest=Max("at"), rows=Max(F("pk")), calls=Sum("calls"))
