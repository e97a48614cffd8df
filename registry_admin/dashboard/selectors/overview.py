"""What the dashboard shows: counts, what needs attention, and a page of all services, declared or not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import (
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
)
from django.db.models.functions import Cast, Coalesce, Greatest, Lower

from registry_admin.dashboard.availability import Availability
from registry_admin.dashboard.selectors.availability import availability_of
from registry_admin.dashboard.selectors.urgency import GONE, HEALTHS, SYNCS, UNSYNCED, UNWELL, rank
from registry_admin.dashboard.selectors.wording import page_number
from registry_admin.inventory.models import Health, Instance, ObservedInstance, Service, SyncStatus

PAGE_SIZE = 50
MAX_CELLS = 24
BARS, BARS_SHOW = 30, timedelta(hours=24)

SORTS = {
    "name": ["key"],
    "health": ["health_rank", "sync_rank", "key"],
    "sync": ["sync_rank", "health_rank", "key"],
    "changed": ["-changed", "key"],
    "owner": ["owner", "key"],
}
KINDS = {"declared": "declared here", "foreign": "not declared"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the address asks for; what it doesn't know is as if it weren't there."""

    search: str = ""
    health: str = ""
    sync: str = ""
    kind: str = ""
    owner: str = ""
    sort: str = "name"
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, Any]) -> Wanted:
        """From a query string."""
        sort = str(query.get("sort", ""))
        return cls(
            search=str(query.get("q", "")).strip()[:200].replace("\x00", ""),
            health=_known(query.get("health", ""), Health.values),
            sync=_known(query.get("sync", ""), SyncStatus.values),
            kind=_known(query.get("kind", ""), KINDS),
            owner=str(query.get("owner", ""))[:200].replace("\x00", ""),
            sort=sort if sort.removeprefix("-") in SORTS else "name",
            page=page_number(query),
        )

    @property
    def is_filtered(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.search or self.health or self.sync or self.kind or self.owner)


def _known(value: object, among: Collection[str]) -> str:
    return str(value) if value in among else ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An instance as a small square."""

    id: str
    place: str
    state: str  # a health, or missing or evicted
    word: str


@dataclass(kw_only=True)
class Row:
    """A service in the table."""

    name: str
    is_declared: bool
    health: str
    sync: str
    owner: str
    changed: datetime | None
    cells: list[Cell] = field(default_factory=list)
    instances: int = 0
    availability: Availability | None = None

    @property
    def key(self) -> str:
        """Names differ only in upper and lower case are one."""
        return self.name.lower()

    @property
    def more(self) -> int:
        """How many instances have no cell."""
        return self.instances - len(self.cells)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many services there are, by health and by sync status, declared and not."""

    health: Mapping[str, int]
    sync: Mapping[str, int]
    total: int
    declared: int
    pressing: int
    matching: int | None


def counts(wanted: Wanted) -> Counts:
    """Of all services, whatever is searched for; `matching` where it follows from the same. One query."""
    declared = Service.objects.order_by().values("health", "sync_status").annotate(n=Count("pk"))
    foreign = _foreign().values("service_name").annotate(rank=_worst_rank())
    rows = declared.annotate(rank=rank("health", HEALTHS), ours=Value(1)).values_list(
        "rank", "sync_status", "n", "ours"
    )
    others = foreign.annotate(sync=Value(str(SyncStatus.UNMANAGED)), n=Value(1), ours=Value(0))
    health: Counter[str] = Counter()
    sync: Counter[str] = Counter()
    declared_count = matching = pressing = 0
    for place, status, n, ours in rows.union(others.values_list("rank", "sync", "n", "ours"), all=True):
        its_health = HEALTHS[place]
        health[its_health] += n
        sync[status] += n
        declared_count += n * ours
        pressing += n * (its_health in UNWELL or status in UNSYNCED)
        fits = wanted.health in ("", its_health) and wanted.sync in ("", status)
        matching += n * (fits and wanted.kind in ("", "declared" if ours else "foreign"))
    return Counts(
        health=health,
        sync=sync,
        total=health.total(),
        declared=declared_count,
        pressing=pressing,
        matching=None if wanted.search or wanted.owner else matching,
    )


def services(wanted: Wanted, *, now: datetime) -> tuple[list[Row], bool]:
    """A page of them, and whether another follows. Four queries, whatever there is."""
    sources: list[Any] = []
    if wanted.kind != "foreign":
        sources.append(_declared_rows(wanted))
    if wanted.kind != "declared":
        sources.append(_foreign_rows(wanted))
    rows = sources[0].union(*sources[1:], all=True)
    order = SORTS[wanted.sort.removeprefix("-")]
    if wanted.sort.startswith("-"):
        order = [column[1:] if column.startswith("-") else f"-{column}" for column in order]
    start = (wanted.page - 1) * PAGE_SIZE
    found = list(rows.order_by(*order)[start : start + PAGE_SIZE + 1])
    shown = [
        Row(
            name=one["shown_name"],
            is_declared=bool(one["ours"]),
            health=HEALTHS[one["health_rank"]],
            sync=SYNCS[one["sync_rank"]],
            owner=one["shown_owner"],
            changed=one["changed"],
        )
        for one in found[:PAGE_SIZE]
    ]
    _fill({row.key: row for row in shown}, now=now)
    return shown, len(found) > PAGE_SIZE


def _declared_rows(wanted: Wanted) -> Any:
    rows = Service.objects.order_by()
    if text := wanted.search:
        place = Q(address__icontains=text) | Q(consul_id__icontains=text)
        rows = rows.annotate(tags_text=Cast("tags", TextField())).filter(
            Q(name__icontains=text)
            | Q(owner__icontains=text)
            | Q(description__icontains=text)
            | Q(tags_text__icontains=text)
            | Exists(Instance.objects.filter(place, service=OuterRef("pk")))
        )
    chosen = {"health": wanted.health, "sync_status": wanted.sync, "owner": wanted.owner}
    return (
        rows.filter(**{column: value for column, value in chosen.items() if value})
        .annotate(
            key=Lower("name"),
            shown_name=Cast("name", CharField(max_length=512)),
            shown_owner=Cast("owner", CharField(max_length=512)),
            health_rank=rank("health", HEALTHS),
            sync_rank=rank("sync_status", SYNCS),
            changed=_last_change() if wanted.sort.endswith("changed") else F("updated_at"),
            ours=Value(1),
        )
        .values(*_COLUMNS)
    )


def _last_change() -> Greatest:
    """Of the declaration, or of an instance's health: asked for every service, so only where that is sorted by."""
    seen = ObservedInstance.objects.filter(service_name=OuterRef("name")).order_by("-health_since")
    return Greatest("updated_at", Coalesce(Subquery(seen.values("health_since")[:1]), F("updated_at")))


def _foreign_rows(wanted: Wanted) -> Any:
    rows = _foreign()
    if text := wanted.search:
        rows = rows.filter(Q(service_name__icontains=text) | Q(address__icontains=text) | Q(consul_id__icontains=text))
    grouped = rows.values("service_name").annotate(
        key=Lower("service_name"),
        shown_name=Cast("service_name", CharField(max_length=512)),
        shown_owner=Cast(Value(""), CharField(max_length=512)),
        health_rank=_worst_rank(),
        sync_rank=Value(SYNCS.index(SyncStatus.UNMANAGED)),
        changed=Max("health_since"),
        ours=Value(0),
    )
    if wanted.health:
        grouped = grouped.filter(health_rank=HEALTHS.index(Health(wanted.health)))
    if wanted.owner or wanted.sync not in ("", SyncStatus.UNMANAGED):
        grouped = grouped.filter(health_rank=-1)  # none of them
    return grouped.values(*_COLUMNS)


_COLUMNS = ("key", "shown_name", "shown_owner", "health_rank", "sync_rank", "changed", "ours")


def _fill(rows: Mapping[str, Row], *, now: datetime) -> None:
    """Gives each its instances as cells, and its bars."""
    there, absent = _instances(rows)
    for row in rows.values():
        cells = absent.get(row.key, []) + [
            Cell(id=consul_id, place=f"{address}:{port}", state=health, word=Health(health).label)
            for _, consul_id, health, _, address, port, _ in sorted(
                there.get(row.key, ()), key=lambda one: (HEALTHS.index(Health(one[2])), one[1])
            )
        ]
        row.changed = max(filter(None, [row.changed, *(one[6] for one in there.get(row.key, ()))]), default=None)
        row.cells, row.instances = cells[:MAX_CELLS], len(cells)
    current = {(key, one[0], one[1]): (one[2], one[3]) for key, ones in there.items() for one in ones}
    bars = availability_of(rows, now=now, window=BARS_SHOW, buckets=BARS, there=current)
    for key, row in rows.items():
        row.availability = bars[key]


def _instances(keys: Iterable[str]) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, list[Cell]]]:
    """What Consul has of these services, and what should be there and isn't. One query."""
    wanted = list(keys)
    observed = (
        ObservedInstance.objects.annotate(key=Lower("service_name"))
        .filter(key__in=wanted)
        .order_by()
        .values_list("key", "node", "consul_id", "health", "first_seen", "address", "port", "health_since")
    )
    gone = (
        Instance.objects.annotate(key=Lower("service__name"))
        .filter(key__in=wanted, sync_status__in=[SyncStatus.MISSING, SyncStatus.EVICTED], enabled=True)
        .order_by()
        .values_list("key", Value(""), "consul_id", "sync_status", "updated_at", "address", "port", "updated_at")
    )
    there: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    one: list[Any]
    absent: dict[str, list[Cell]] = defaultdict(list)
    for key, *one in observed.union(gone, all=True):
        _, consul_id, status, _, address, port, _ = one
        if status in GONE:
            absent[key].append(
                Cell(id=consul_id, place=f"{address}:{port}", state=status, word=SyncStatus(status).label)
            )
        else:
            there[key].append(tuple(one))
    return there, absent


def _foreign() -> QuerySet[ObservedInstance]:
    """What no declaration is about."""
    declared = Service.objects.alias(key=Lower("name")).filter(key=Lower(OuterRef("service_name")))
    return ObservedInstance.objects.filter(~Exists(declared)).order_by()


def _worst_rank() -> Min:
    return Min(rank("health", HEALTHS))
