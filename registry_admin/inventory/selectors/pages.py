"""What pages show beside their rows: how old the data is, who leads, and a service's instances."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import BooleanField, ExpressionWrapper, OuterRef, Q, Subquery
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.timesince import timesince

from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import ConsulContact, Instance, Lease, ObservedInstance, Service


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """How old what we know of Consul is; `problem` is empty while it is current. `halted`: why nothing is evicted."""

    seen_at: datetime | None
    since: datetime | None
    problem: str
    halted: str = ""

    @property
    def age(self) -> str:
        """How long ago Consul was seen, in words."""
        if self.seen_at is None or timezone.now() - self.seen_at < timedelta(minutes=1):
            return "less than a minute"
        return timesince(self.seen_at)

    @property
    def is_current(self) -> bool:
        """Whether sync status and health may be shown as known."""
        return not self.problem


def freshness(now: datetime | None = None) -> Freshness:
    """When Consul was last seen, and what is wrong if that is too long ago. One query."""
    return _freshness(ConsulContact.objects.filter(pk=1).first(), now or timezone.now())


def _freshness(contact: ConsulContact | None, now: datetime) -> Freshness:
    if contact is None or (contact.reachable and contact.seen_at is None):
        return Freshness(seen_at=None, since=None, problem="Consul has not been looked at yet. Is the watcher running?")
    if not contact.reachable:
        return Freshness(seen_at=contact.seen_at, since=contact.since, problem=contact.problem)
    assert contact.seen_at is not None  # noqa: S101 - for the type checker; see above
    if now - contact.seen_at > timedelta(seconds=conf.stale_after_s):
        problem = "Nobody has looked at Consul since. Is the watcher (manage.py sync_registry --watch) running?"
        return Freshness(seen_at=contact.seen_at, since=contact.seen_at, problem=problem)
    return Freshness(seen_at=contact.seen_at, since=contact.since, problem="", halted=contact.halted)


@dataclass(frozen=True, kw_only=True)
class Leadership:
    """Which watcher leads, since when, and when its next full pass is due; `is_current` unless it has died."""

    holder: str
    since: datetime | None
    next_pass_at: datetime | None
    is_current: bool


def lease() -> Leadership:
    """As the lease has it, by the database's clock. One query."""
    is_current = ExpressionWrapper(Q(expires_at__gt=Now()), output_field=BooleanField())
    row = Lease.objects.filter(pk=1).annotate(is_current=is_current).first()
    if row is None or not row.holder:
        return Leadership(holder="", since=None, next_pass_at=None, is_current=False)
    return Leadership(
        holder=row.holder, since=row.since, next_pass_at=row.next_pass_at, is_current=bool(row.is_current)
    )


def freshness_and_lease() -> tuple[Freshness, Leadership]:
    """Both in one query, where Consul was ever looked at."""
    row = Lease.objects.filter(pk=OuterRef("pk"))
    is_current = ExpressionWrapper(Q(expires_at__gt=Now()), output_field=BooleanField())
    contact = (
        ConsulContact.objects.filter(pk=1)
        .annotate(
            holder=Subquery(row.values("holder")),
            led_since=Subquery(row.values("since")),
            next_pass_at=Subquery(row.values("next_pass_at")),
            is_led=Subquery(row.annotate(is_current=is_current).values("is_current")),
        )
        .first()
    )
    if contact is None:
        return _freshness(None, timezone.now()), lease()
    leadership = Leadership(
        holder=contact.holder or "",
        since=contact.led_since if contact.holder else None,
        next_pass_at=contact.next_pass_at if contact.holder else None,
        is_current=bool(contact.holder and contact.is_led),
    )
    return _freshness(contact, timezone.now()), leadership


@dataclass(frozen=True, kw_only=True)
class PaneRow:
    """An instance of a service, as declared, as observed, or both."""

    declared: Instance | None
    observed: ObservedInstance | None

    @property
    def consul_id(self) -> str:
        """The service ID."""
        return self.declared.consul_id if self.declared else self.observed.consul_id if self.observed else ""

    @property
    def node(self) -> str:
        """The node that has it, where Consul has it."""
        return self.observed.node if self.observed else ""

    @property
    def place(self) -> str:
        """`127.0.0.1:8000`, where Consul has it, else where it is declared."""
        row = self.observed or self.declared
        return f"{row.address}:{row.port}" if row else ""

    @property
    def sync_status(self) -> str:
        """The declaration's, or what is said of an undeclared one."""
        return self.declared.sync_status if self.declared else self.observed.sync_status if self.observed else ""

    @property
    def sync_reason(self) -> str:
        """Why, where it isn't Synced."""
        return self.declared.sync_reason if self.declared else self.observed.sync_reason if self.observed else ""


@dataclass(frozen=True, kw_only=True)
class ServicePane:
    """What a service's live pane shows."""

    service: Service
    rows: tuple[PaneRow, ...]


def service_pane(pk: int) -> ServicePane | None:
    """A service with its declared instances beside the observed ones of its name or IDs, or None. Three queries.

    An ID is a node's own: what several nodes have under one is as many rows.
    """
    service = Service.objects.filter(pk=pk).first()
    if service is None:
        return None
    declared = {row.consul_id: row for row in Instance.objects.filter(service=service)}
    of_service = Q(service_name__iexact=service.name) | Q(consul_id__in=list(declared))
    observed = list(ObservedInstance.objects.filter(of_service))
    rows = [PaneRow(declared=declared.get(row.consul_id), observed=row) for row in observed]
    absent = declared.keys() - {row.consul_id for row in observed}
    rows += [PaneRow(declared=declared[consul_id], observed=None) for consul_id in absent]
    return ServicePane(service=service, rows=tuple(sorted(rows, key=lambda row: (row.consul_id, row.node))))
