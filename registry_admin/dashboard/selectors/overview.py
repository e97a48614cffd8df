"""Counts of all services, and a page of them, declared or not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import (
    Case,
    CharField,
    Count,
    Exists,
    F,
    Max,
    Min,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextField,
    Value,
    When,
)
from django.db.models.functions import Cast, Coalesce, Greatest, Lower

from registry_admin.dashboard.overview_columns import SORT_ORDERS
from registry_admin.dashboard.overview_row import InstanceCell, ServiceRow
from registry_admin.dashboard.selectors.availability import availability_of
from registry_admin.dashboard.selectors.query import page_number
from registry_admin.inventory.cache import cached
from registry_admin.inventory.models import (
    HEALTHS,
    SYNC_STATUSES,
    Instance,
    ObservedInstance,
    Service,
    SyncStatus,
)
from registry_admin.inventory.selectors import state_stamp

PAGE_SIZE = 50
MAX_CELLS = 24
BARS, BARS_SHOW = 30, timedelta(hours=24)

KINDS = ("declared", "foreign")


@dataclass(frozen=True, kw_only=True)
class OverviewFilter:
    """Filter, order and page that the address asks for. Values that don't exist are ignored."""

    search: str = ""
    health: str = ""
    sync: str = ""
    kind: str = ""
    owner: str = ""
    sort: str = "name"
    page: int = 1

    @classmethod
    def from_query(cls, query: Mapping[str, Any]) -> OverviewFilter:
        sort = str(query.get("sort", ""))
        return cls(
            search=str(query.get("q", "")).strip()[:200].replace("\x00", ""),
            health=_choice(query.get("health", ""), HEALTHS.values),
            sync=_choice(query.get("sync", ""), SYNC_STATUSES.values),
            kind=_choice(query.get("kind", ""), KINDS),
            owner=str(query.get("owner", ""))[:200].replace("\x00", ""),
            sort=sort if sort.removeprefix("-") in SORT_ORDERS else "name",
            page=page_number(query),
        )

    @property
    def is_filtered(self) -> bool:
        """True if any service is left out."""
        return bool(self.search or self.health or self.sync or self.kind or self.owner)


def _choice(value: object, choices: Collection[str]) -> str:
    return str(value) if value in choices else ""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of services by health and by sync status. `matching`: of the filter, where the counts tell it."""

    health: Mapping[str, int]
    sync: Mapping[str, int]
    total: int
    declared: int
    needing_attention: int
    matching: int | None


def counts(filters: OverviewFilter) -> Counts:
    """Returns the counts of all services, whatever the filter is. Two queries at most."""
    health: Counter[str] = Counter()
    sync: Counter[str] = Counter()
    declared = matching = needing_attention = 0
    for its_health, its_sync, is_declared, number in cached("overview-sums", state_stamp(), _sums):
        health[its_health] += number
        sync[its_sync] += number
        declared += number * is_declared
        is_urgent = HEALTHS[its_health].urgency is not None or SYNC_STATUSES[its_sync].urgency is not None
        needing_attention += number * is_urgent
        fits = filters.health in ("", its_health) and filters.sync in ("", its_sync)
        matching += number * (fits and filters.kind in ("", "declared" if is_declared else "foreign"))
    return Counts(
        health=health,
        sync=sync,
        total=health.total(),
        declared=declared,
        needing_attention=needing_attention,
        matching=None if filters.search or filters.owner else matching,
    )


def _sums() -> list[list[Any]]:
    """Returns health, sync status, declared (1 or 0) and the number of services of each combination. One query."""
    declared = Service.objects.order_by().values("health", "sync_status").annotate(number=Count("pk"))
    foreign = _foreign().values("service_name").annotate(rank=_worst_rank())
    declared_sums = declared.annotate(rank=HEALTHS.rank("health"), is_declared=Value(1)).values_list(
        "rank", "sync_status", "is_declared", "number"
    )
    foreign_sums = foreign.annotate(sync=Value(str(SyncStatus.UNMANAGED)), number=Value(1), is_declared=Value(0))
    rows = declared_sums.union(foreign_sums.values_list("rank", "sync", "is_declared", "number"), all=True)
    sums: Counter[tuple[str, str, int]] = Counter()
    for rank, sync, is_declared, number in rows:
        sums[HEALTHS.by_severity[rank].value, sync, is_declared] += number
    return [[*key, number] for key, number in sums.items()]


def services(filters: OverviewFilter, *, now: datetime) -> tuple[list[ServiceRow], bool]:
    """A page of them, and whether another follows. Four queries, whatever there is."""
    order = list(SORT_ORDERS[filters.sort.removeprefix("-")])
    if filters.sort.startswith("-"):
        order = [column[1:] if column.startswith("-") else f"-{column}" for column in order]
    start = (filters.page - 1) * PAGE_SIZE
    page = list(_rows(filters).order_by(*order)[start : start + PAGE_SIZE + 1])
    return _filled(page[:PAGE_SIZE], now=now), len(page) > PAGE_SIZE


def services_after(
    filters: OverviewFilter, *, after: tuple[str, str] | None, limit: int, now: datetime
) -> tuple[list[ServiceRow], bool]:
    """Returns up to `limit` services by name, and whether more follow. `after`: key and name of the last one before.

    The filter's order and page are ignored.
    """
    is_after = Q()
    if after is not None:
        key, name = after
        is_after = Q(key__gt=key) | Q(key=key, display_name__gt=name)
    page = list(_rows(filters, is_after).order_by("key", "display_name")[: limit + 1])
    return _filled(page[:limit], now=now), len(page) > limit


def service_row(name: str, *, now: datetime) -> ServiceRow | None:
    """Returns the service of this name, upper and lower case alike, or None."""
    named = Q(key=Lower(Value(name)))
    rows = list(_rows(OverviewFilter(), named).order_by("-is_declared", "display_name")[:1])
    return _filled(rows, now=now)[0] if rows else None


def _rows(filters: OverviewFilter, condition: Q | None = None) -> Any:
    sources: list[Any] = []
    if filters.kind != "foreign":
        sources.append(_declared_rows(filters))
    if filters.kind != "declared":
        sources.append(_foreign_rows(filters))
    if condition:
        sources = [source.filter(condition) for source in sources]
    return sources[0].union(*sources[1:], all=True)


def _filled(rows: Iterable[Mapping[str, Any]], *, now: datetime) -> list[ServiceRow]:
    service_rows = [
        ServiceRow(
            key=row["key"],
            name=row["display_name"],
            is_declared=bool(row["is_declared"]),
            registers_itself=not row["not_by_itself"],
            health=HEALTHS.by_severity[row["health_rank"]].value,
            sync=SYNC_STATUSES.by_severity[row["sync_rank"]].value,
            owner=row["display_owner"],
            changed=row["changed"],
        )
        for row in rows
    ]
    _fill({row.key: row for row in service_rows}, now=now)
    return service_rows


def _declared_rows(filters: OverviewFilter) -> Any:
    rows = Service.objects.order_by()
    if text := filters.search:
        place = Q(address__icontains=text) | Q(consul_id__icontains=text)
        rows = rows.annotate(tags_text=Cast("tags", TextField())).filter(
            Q(name__icontains=text)
            | Q(owner__icontains=text)
            | Q(description__icontains=text)
            | Q(tags_text__icontains=text)
            | Exists(Instance.objects.filter(place, service=OuterRef("pk")))
        )
    chosen = {"health": filters.health, "sync_status": filters.sync, "owner": filters.owner}
    return (
        rows.filter(**{column: value for column, value in chosen.items() if value})
        .annotate(
            key=Lower("name"),
            display_name=Cast("name", CharField(max_length=512)),
            display_owner=Cast("owner", CharField(max_length=512)),
            health_rank=HEALTHS.rank("health"),
            sync_rank=SYNC_STATUSES.rank("sync_status"),
            changed=_last_change() if filters.sort.endswith("changed") else F("updated_at"),
            is_declared=Value(1),
            not_by_itself=Value(1),
        )
        .values(*_COLUMNS)
    )


def _last_change() -> Greatest:
    """Returns the time of the last change of the declaration or of an instance's health. Slow: only to sort by it."""
    observed = ObservedInstance.objects.filter(service_name=OuterRef("name")).order_by("-health_since")
    return Greatest("updated_at", Coalesce(Subquery(observed.values("health_since")[:1]), F("updated_at")))


def _foreign_rows(filters: OverviewFilter) -> Any:
    rows = _foreign()
    if text := filters.search:
        rows = rows.filter(Q(service_name__icontains=text) | Q(address__icontains=text) | Q(consul_id__icontains=text))
    grouped = rows.values("service_name").annotate(
        key=Lower("service_name"),
        display_name=Cast("service_name", CharField(max_length=512)),
        display_owner=Cast(Value(""), CharField(max_length=512)),
        health_rank=_worst_rank(),
        sync_rank=Value(SYNC_STATUSES.rank_of(SyncStatus.UNMANAGED)),
        changed=Max("health_since"),
        is_declared=Value(0),
        not_by_itself=Max(Case(When(registered_itself=True, then=0), default=1)),
    )
    if filters.health:
        grouped = grouped.filter(health_rank=HEALTHS.rank_of(filters.health))
    if filters.owner or filters.sync not in ("", SyncStatus.UNMANAGED):
        grouped = grouped.filter(health_rank=-1)  # none of them
    return grouped.values(*_COLUMNS)


_COLUMNS = (
    "key",
    "display_name",
    "display_owner",
    "health_rank",
    "sync_rank",
    "changed",
    "is_declared",
    "not_by_itself",
)


def _fill(rows: Mapping[str, ServiceRow], *, now: datetime) -> None:
    """Adds instances and availability to each row."""
    present, absent = _instances(rows)
    for row in rows.values():
        instances = sorted(present.get(row.key, ()), key=lambda item: (HEALTHS.rank_of(item.health), item.consul_id))
        row_cells = absent.get(row.key, []) + [item.cell for item in instances]
        row.changed = max(filter(None, [row.changed, *(item.health_since for item in instances)]), default=None)
        row.cells, row.instances = row_cells[:MAX_CELLS], len(row_cells)
    current = {
        (key, item.node, item.consul_id): (item.health, item.first_seen)
        for key, instances in present.items()
        for item in instances
    }
    availabilities = availability_of(rows, now=now, window=BARS_SHOW, bar_count=BARS, current=current)
    for key, row in rows.items():
        row.availability = availabilities[key]


class _Present(NamedTuple):
    """An instance that Consul has."""

    node: str
    consul_id: str
    health: str
    first_seen: datetime
    address: str
    port: int
    health_since: datetime

    @property
    def cell(self) -> InstanceCell:
        return InstanceCell(id=self.consul_id, place=f"{self.address}:{self.port}", status=HEALTHS[self.health])


def _instances(keys: Iterable[str]) -> tuple[dict[str, list[_Present]], dict[str, list[InstanceCell]]]:
    """Returns the instances in Consul and the cells of absent ones, by lower-case service name. One query."""
    names = list(keys)
    observed = (
        ObservedInstance.objects.annotate(key=Lower("service_name"))
        .filter(key__in=names)
        .order_by()
        .values_list("key", "node", "consul_id", "health", "first_seen", "address", "port", "health_since")
    )
    declared = (
        Instance.objects.annotate(key=Lower("service__name"))
        .filter(key__in=names, sync_status__in=SYNC_STATUSES.absent, enabled=True)
        .order_by()
        .values_list("key", Value(""), "consul_id", "sync_status", "updated_at", "address", "port", "updated_at")
    )
    present: dict[str, list[_Present]] = defaultdict(list)
    absent: dict[str, list[InstanceCell]] = defaultdict(list)
    for key, *columns in observed.union(declared, all=True):
        item = _Present._make(columns)
        if item.health in SYNC_STATUSES.absent:
            place = f"{item.address}:{item.port}"
            absent[key].append(InstanceCell(id=item.consul_id, place=place, status=SYNC_STATUSES[item.health]))
        else:
            present[key].append(item)
    return present, absent


def _foreign() -> QuerySet[ObservedInstance]:
    """Returns the instances of services that aren't declared."""
    declared = Service.objects.alias(key=Lower("name")).filter(key=Lower(OuterRef("service_name")))
    return ObservedInstance.objects.filter(~Exists(declared)).order_by()


def _worst_rank() -> Min:
    return Min(HEALTHS.rank("health"))
