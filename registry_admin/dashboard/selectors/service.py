"""Everything that the page of a service shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, IntegerField, OuterRef, Q, Subquery, TextField, Value, Window
from django.db.models.functions import Cast, Coalesce, Lower

from registry_admin.consul.marks import RESERVED_META
from registry_admin.dashboard.availability import Availability
from registry_admin.dashboard.selectors.availability import availability_of
from registry_admin.dashboard.selectors.query import display_text
from registry_admin.inventory.models import (
    HEALTHS,
    Health,
    HealthTransition,
    Instance,
    ObservedInstance,
    Service,
    SyncRun,
)
from registry_admin.reconcile.plan import Cause

PAGE_SIZE = 50
TIMELINE = 30
RUNS_SEARCHED = 200  # the latest ones
WINDOWS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
BARS = 90


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of an instance: declared and live value."""

    name: str
    declared: Any
    live: Any
    differs: bool


@dataclass(frozen=True, kw_only=True)
class InstanceRow:
    """An instance: its declaration, its observation, or both."""

    declared: Instance | None
    observed: ObservedInstance | None

    @property
    def consul_id(self) -> str:
        """The service ID."""
        row = self.declared or self.observed
        return row.consul_id if row else ""

    @property
    def key(self) -> str:
        """The row's own, within the page."""
        return (
            f"declared-{self.declared.pk}" if self.declared else f"observed-{self.observed.pk if self.observed else 0}"
        )

    @property
    def observed_key(self) -> str:
        """The observed service's name in lower case, as the database has it."""
        return str(getattr(self.observed, "key", ""))

    @property
    def place(self) -> str:
        """Address and port in Consul, else as declared."""
        row = self.observed or self.declared
        return f"{row.address}:{row.port}" if row else ""

    @property
    def sync_status(self) -> str:
        """Status of the declaration, else of the observation."""
        row = self.declared or self.observed
        return row.sync_status if row else ""

    @property
    def sync_reason(self) -> str:
        """Reason of the status, with its cause where the reason doesn't name it."""
        row = self.declared or self.observed
        if row is None:
            return ""
        cause = Cause.label_of(row.sync_cause)
        return f"{row.sync_reason} ({cause})" if cause not in row.sync_reason and row.sync_reason else row.sync_reason

    @property
    def kept_maintenance(self) -> str:
        """The reason of maintenance mode that it is registered with when it comes back; empty while it is there."""
        return self.declared.maintenance if self.declared is not None and self.observed is None else ""

    @property
    def in_maintenance(self) -> bool:
        """True if Consul has it in maintenance."""
        return self.observed is not None and self.observed.health == Health.MAINTENANCE

    @property
    def is_starting(self) -> bool:
        """True until its check has run for the first time."""
        return self.observed is not None and self.observed.health == Health.UNKNOWN

    @property
    def fields(self) -> list[Field]:
        """Desired beside live, those that differ first; empty unless there are both."""
        declared, observed = self.declared, self.observed
        if declared is None or observed is None:
            return []
        service = declared.service
        own = {key: value for key, value in observed.meta.items() if key not in RESERVED_META}
        pairs = [
            ("name", service.name, observed.service_name),
            ("address", declared.address, observed.address),
            ("port", declared.port, observed.port),
            ("weight", declared.weight, observed.weight),
            ("tags", [*service.tags, *declared.extra_tags], observed.tags),
            ("meta", {**service.meta, **declared.extra_meta}, own),
        ]
        differing_names = {change["field"].partition(".")[0] for change in declared.differences}
        fields = [
            Field(name=name, declared=display_text(a), live=display_text(b), differs=name in differing_names)
            for name, a, b in pairs
        ] + [
            Field(
                name=change["field"],
                declared=display_text(change["after"]),
                live=display_text(change["before"]),
                differs=True,
            )
            for change in declared.differences
            if change["field"] in ("check", "owner")
        ]
        return sorted(fields, key=lambda field: not field.differs)

    @property
    def differing(self) -> list[Field]:
        """Only those that differ."""
        return [field for field in self.fields if field.differs]


@dataclass(frozen=True, kw_only=True)
class Event:
    """A change of health of the service, or a sync that named it."""

    at: datetime
    kind: str
    first: str
    second: str
    third: str
    text: str
    key: int


@dataclass(kw_only=True)
class ServiceView:
    """A service, declared or only observed."""

    name: str
    service: Any
    rows: list[InstanceRow] = field(default_factory=list)
    total: int = 0
    availability: Availability | None = None
    timeline: list[Event] = field(default_factory=list)

    @property
    def health(self) -> str:
        """Stored health, or of an undeclared service the most severe of its instances."""
        if self.service is not None:
            return str(self.service.health)
        return HEALTHS.most_severe((row.observed.health for row in self.rows if row.observed), default=Health.UNKNOWN)

    @property
    def registers_itself(self) -> bool:
        """True if each of its instances in Consul carries the mark of our registration module."""
        observed = [row.observed for row in self.rows if row.observed]
        return bool(observed) and all(instance.registered_itself for instance in observed)

    @property
    def sync_status(self) -> str:
        """Status of the declaration; Unmanaged without one."""
        return str(self.service.sync_status) if self.service is not None else "unmanaged"


def view(name: str, *, page: int, window: str, now: datetime) -> ServiceView | None:
    """The service of this name, upper and lower case alike, or None. Six queries or seven, whatever it has."""
    service = _declared(name)
    start = (page - 1) * PAGE_SIZE
    rows, total = _rows(name, service, start)
    if service is None and not rows:
        return None
    fields = service.name if service is not None else rows[0].observed.service_name if rows[0].observed else name
    key = service.key if service is not None else rows[0].observed_key
    everything = None
    if total <= PAGE_SIZE and page == 1:
        observed_here = (row.observed for row in rows if row.observed and row.observed_key == key)
        everything = {(key, field.node, field.consul_id): (field.health, field.first_seen) for field in observed_here}
    bars = availability_of([key], now=now, window=WINDOWS[window], bar_count=BARS, current=everything)
    return ServiceView(
        name=fields,
        service=service,
        rows=rows,
        total=total,
        availability=bars[key],
        timeline=_timeline(fields),
    )


def _declared(name: str) -> Any:
    """The declaration, with who changed it or an instance of it last."""
    service_versions = Service.history.model.objects.filter(id=OuterRef("pk")).order_by("-history_id")
    instance_versions = Instance.history.model.objects.filter(service_id=OuterRef("pk")).order_by("-history_id")
    last = {
        f"{prefix}_{column}": Subquery(rows.values(f"history_{source}")[:1])
        for prefix, rows in (("own", service_versions), ("instance", instance_versions))
        for column, source in (("at", "date"), ("by", "user_id"), ("via", "change_reason"))
    }
    service: Any = Service.objects.annotate(key=Lower("name"), **last).filter(key=Lower(Value(name))).first()
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
    undeclared = Q(key=Lower(Value(name)))
    total = 0
    if service is not None:
        observed_here = ObservedInstance.objects.filter(consul_id=OuterRef("consul_id"), declared=True).order_by()
        health = Subquery(observed_here.values(rank=HEALTHS.rank("health"))[:1], output_field=IntegerField())
        declared = list(
            Instance.objects.filter(service=service)
            .annotate(total=Window(Count("pk")), health_rank=Coalesce(health, Value(-1)))
            .order_by("health_rank", "consul_id")[start : start + PAGE_SIZE]
        )
        for row in declared:
            row.service = service  # so that nothing is fetched for it
        total = declared[0].total if declared else 0
        declared_here = Instance.objects.filter(service=service, consul_id=OuterRef("consul_id"))
        undeclared &= Q(declared=False) | ~Q(Exists(declared_here))
    selected = undeclared | Q(consul_id__in=[row.consul_id for row in declared], declared=True)
    observed_rows = list(
        observed.filter(selected).order_by(HEALTHS.rank("health"), "consul_id", "node")[: 2 * PAGE_SIZE + 1]
    )
    declared_ids = {instance.consul_id for instance in declared}
    by_id: dict[str, ObservedInstance] = {}
    undeclared_rows = []
    for row in observed_rows:
        if row.declared and row.consul_id in declared_ids:
            by_id.setdefault(row.consul_id, row)
        else:
            undeclared_rows.append(InstanceRow(declared=None, observed=row))
    rows = [InstanceRow(declared=instance, observed=by_id.get(instance.consul_id)) for instance in declared]
    return rows + undeclared_rows, max(total, len(declared)) + len(undeclared_rows)


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
