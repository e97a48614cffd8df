"""Calls between services, summed over a time window, and the health of the services."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import FloatField, Max, Min, Subquery, Sum
from django.db.models.functions import Cast, Lower
from django.urls import reverse

from registry_admin.callgraph.models import CallCount
from registry_admin.inventory.models import HEALTHS, Health, ObservedInstance, Service

WINDOWS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
MAX_DRAWN = 60
MAX_LISTED = 300
NOTABLE_FAILURE_SHARE = 0.01
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
        """Failed calls in percent."""
        return 100 * self.failures / self.calls if self.calls else 0.0

    @property
    def is_failing(self) -> bool:
        """True if the share of failures deserves a mark."""
        return self.failures > NOTABLE_FAILURE_SHARE * self.calls


@dataclass(frozen=True, kw_only=True)
class CallMap:
    """Edges, health by lower-case service name, and declared services without a known call."""

    edges: list[Edge]
    healths: dict[str, str]
    uncalled: list[str]

    def drawing(self, *, current: bool) -> dict[str, Any]:
        """Returns the data for map.js: the busiest pairs. `current`: the snapshot is recent, so healths are known."""
        busiest = sorted(self.edges, key=lambda edge: -edge.calls)[:MAX_DRAWN]
        names = sorted({name for edge in busiest for name in (edge.caller, edge.called)})
        nodes = []
        for name in names:
            status = HEALTHS[self.healths.get(name.lower(), Health.UNKNOWN) if current else Health.UNKNOWN]
            colour = status.colour
            url = reverse("dashboard:service", args=[name])
            nodes.append(
                {"name": name, "url": url, "health": status.value, "colour": colour.value, "symbol": colour.symbol}
            )
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


def call_map(*, window: str, sort: str, now: datetime) -> CallMap:
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
    return CallMap(edges=edges, healths=healths, uncalled=[name for name in names if name.lower() not in known][:500])


def _foreign_healths(names: Iterable[str]) -> dict[str, str]:
    rows = (
        ObservedInstance.objects.annotate(key=Lower("service_name"))
        .filter(key__in=list(names))
        .order_by()
        .values("key")
        .annotate(worst=Min(HEALTHS.rank("health")))
    )
    return {row["key"]: HEALTHS.by_severity[row["worst"]].value for row in rows}


def calls_stamp() -> object:
    """Returns a value that changes when calls are reported. One query, of the last five minutes' rows only."""
    newest = CallCount.objects.order_by("-at").values("at")[:1]
    return CallCount.objects.filter(at=Subquery(newest)).order_by().aggregate(newest=Max("at"), calls=Sum("calls"))
