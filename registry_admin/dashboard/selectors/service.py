"""What the page of one service shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, IntegerField, OuterRef, Q, Subquery, TextField, Value, Window
from django.db.models.functions import Cast, Coalesce, Lower

from registry_admin.consul.types import RESERVED_META
from registry_admin.dashboard.availability import Availability
from registry_admin.dashboard.selectors.availability import availability_of
from registry_admin.dashboard.selectors.urgency import HEALTHS, rank
from registry_admin.dashboard.selectors.wording import in_words
from registry_admin.inventory.models import Health, HealthTransition, Instance, ObservedInstance, Service, SyncRun

PAGE_SIZE = 50
TIMELINE = 30
RUNS_SEARCHED = 200  # the latest ones
WINDOWS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
BARS = 90


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of an instance: what should be, and what is."""

    name: str
    declared: Any
    live: Any
    differs: bool


@dataclass(frozen=True, kw_only=True)
class InstanceRow:
    """An instance as declared, as observed, or both."""

    declared: Instance | None
    observed: ObservedInstance | None

    @property
    def consul_id(self) -> str:
        """The service ID."""
        row = self.declared or self.observed
        return row.consul_id if row else ""

    @property
    def place(self) -> str:
        """Where Consul has it, else where it is declared."""
        row = self.observed or self.declared
        return f"{row.address}:{row.port}" if row else ""

    @property
    def sync_status(self) -> str:
        """The declaration's, or what is said of an undeclared one."""
        row = self.declared or self.observed
        return row.sync_status if row else ""

    @property
    def sync_reason(self) -> str:
        """Why, with its cause where the reason doesn't say it already."""
        row = self.declared or self.observed
        if row is None:
            return ""
        cause = row.sync_cause if row.sync_cause not in row.sync_reason else ""
        return f"{row.sync_reason} ({cause})" if cause and row.sync_reason else row.sync_reason

    @property
    def in_maintenance(self) -> bool:
        """Whether Consul has it in maintenance."""
        return self.observed is not None and self.observed.health == Health.MAINTENANCE

    @property
    def fields(self) -> list[Field]:
        """Desired beside live, those that differ first; empty unless there are both."""
        want, have = self.declared, self.observed
        if want is None or have is None:
            return []
        service = want.service
        own = {key: value for key, value in have.meta.items() if key not in RESERVED_META}
        pairs = [
            ("name", service.name, have.service_name),
            ("address", want.address, have.address),
            ("port", want.port, have.port),
            ("weight", want.weight, have.weight),
            ("tags", [*service.tags, *want.extra_tags], have.tags),
            ("meta", {**service.meta, **want.extra_meta}, own),
        ]
        told = {change["field"].partition(".")[0] for change in want.differences}
        shown = [
            Field(name=name, declared=in_words(a), live=in_words(b), differs=name in told) for name, a, b in pairs
        ] + [
            Field(
                name=change["field"], declared=in_words(change["after"]), live=in_words(change["before"]), differs=True
            )
            for change in want.differences
            if change["field"] in ("check", "owner")
        ]
        return sorted(shown, key=lambda one: not one.differs)

    @property
    def differing(self) -> list[Field]:
        """Only those that differ."""
        return [one for one in self.fields if one.differs]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to the service: a change of health, or a sync that named it."""

    at: datetime
    kind: str
    first: str
    second: str
    third: str
    text: str
    key: int


@dataclass(kw_only=True)
class ServiceView:
    """Everything of one service, declared or only seen."""

    name: str
    service: Any
    rows: list[InstanceRow] = field(default_factory=list)
    total: int = 0
    availability: Availability | None = None
    timeline: list[Event] = field(default_factory=list)

    @property
    def health(self) -> str:
        """The worst of its instances', or the stored one."""
        if self.service is not None:
            return str(self.service.health)
        return str(min((row.observed.health for row in self.rows if row.observed), key=_urgency, default="unknown"))

    @property
    def sync_status(self) -> str:
        """The declaration's; what isn't declared is Unmanaged."""
        return str(self.service.sync_status) if self.service is not None else "unmanaged"

    @property
    def adoptable(self) -> list[ObservedInstance]:
        """What could be adopted."""
        return [row.observed for row in self.rows if row.observed and not row.declared]


def _urgency(health: str) -> int:
    return HEALTHS.index(Health(health))


def view(name: str, *, page: int, window: str, now: datetime) -> ServiceView | None:
    """The service of this name, upper and lower case alike, or None. Six queries or seven, whatever it has."""
    service = _declared(name)
    start = (page - 1) * PAGE_SIZE
    rows, total = _rows(name, service, start)
    if service is None and not rows:
        return None
    shown = service.name if service is not None else rows[0].observed.service_name if rows[0].observed else name
    everything = None
    if total <= PAGE_SIZE and page == 1:
        seen = (row.observed for row in rows if row.observed and row.observed.service_name.lower() == name.lower())
        everything = {(name.lower(), one.node, one.consul_id): (one.health, one.first_seen) for one in seen}
    bars = availability_of([name], now=now, window=WINDOWS[window], buckets=BARS, there=everything)
    return ServiceView(
        name=shown,
        service=service,
        rows=rows,
        total=total,
        availability=bars[name.lower()],
        timeline=_timeline(shown),
    )


def _declared(name: str) -> Any:
    """The declaration, with who changed it or an instance of it last."""
    ours = Service.history.model.objects.filter(id=OuterRef("pk")).order_by("-history_id")
    theirs = Instance.history.model.objects.filter(service_id=OuterRef("pk")).order_by("-history_id")
    last = {
        f"{prefix}_{column}": Subquery(rows.values(f"history_{source}")[:1])
        for prefix, rows in (("own", ours), ("instance", theirs))
        for column, source in (("at", "date"), ("by", "user_id"), ("via", "change_reason"))
    }
    service: Any = Service.objects.annotate(key=Lower("name"), **last).filter(key=name.lower()).first()
    if service is not None:
        both = [(at, prefix) for prefix in ("own", "instance") if (at := getattr(service, f"{prefix}_at"))]
        prefix = max(both)[1] if both else "own"
        service.last_at, service.last_by, service.last_via = (
            getattr(service, f"{prefix}_{column}") for column in ("at", "by", "via")
        )
    return service


def _rows(name: str, service: Any, start: int) -> tuple[list[InstanceRow], int]:
    """A page of its instances, the most pressing first, and how many there are. Two queries."""
    declared: list[Any] = []
    observed = ObservedInstance.objects.annotate(key=Lower("service_name"))
    undeclared = Q(key=name.lower())
    total = 0
    if service is not None:
        seen = ObservedInstance.objects.filter(consul_id=OuterRef("consul_id")).order_by()
        health = Subquery(seen.values(rank=rank("health", HEALTHS))[:1], output_field=IntegerField())
        declared = list(
            Instance.objects.filter(service=service)
            .annotate(total=Window(Count("pk")), health_rank=Coalesce(health, Value(-1)))
            .order_by("health_rank", "consul_id")[start : start + PAGE_SIZE]
        )
        for row in declared:
            row.service = service  # so that nothing is fetched for it
        total = declared[0].total if declared else 0
        of_ours = Instance.objects.filter(service=service, consul_id=OuterRef("consul_id"))
        undeclared &= ~Q(Exists(of_ours))
    wanted = undeclared | Q(consul_id__in=[row.consul_id for row in declared])
    found = list(observed.filter(wanted).order_by(rank("health", HEALTHS), "consul_id", "node")[: 2 * PAGE_SIZE + 1])
    by_id: dict[str, list[ObservedInstance]] = {}
    for one in found:
        by_id.setdefault(one.consul_id, []).append(one)
    rows = [
        InstanceRow(declared=want, observed=have) for want in declared for have in by_id.pop(want.consul_id, [None])
    ]
    others = [InstanceRow(declared=None, observed=one) for ones in by_id.values() for one in ones]
    return rows + others, max(total, len(declared)) + len(others)


def _timeline(name: str) -> list[Event]:
    """The latest changes of health and syncs that named it. One query."""
    transitions = (
        HealthTransition.objects.filter(service_name=name)
        .order_by()
        .values_list("at", Value("health"), "consul_id", "before", "after", "output", "pk")
    )
    latest = SyncRun.objects.order_by("-pk").values("pk")[:RUNS_SEARCHED]
    named = Cast("items", TextField())
    runs = (
        SyncRun.objects.annotate(text=named, scope_text=Cast("scope", TextField()))
        .filter(Q(text__contains=f'"service": "{name}"') | Q(scope_text__contains=f'"{name}"'))
        .filter(pk__in=Subquery(latest))
        .order_by()
        .values_list(
            "started_at", Value("sync"), "actor", "trigger", "outcome", Cast("message", TextField()), "pk",
        )
    )  # fmt: skip
    rows = transitions.union(runs, all=True).order_by("-at", "-pk")[:TIMELINE]
    return [
        Event(at=at, kind=kind, first=first, second=second, third=third, text=text, key=key)
        for at, kind, first, second, third, text, key in rows
    ]
