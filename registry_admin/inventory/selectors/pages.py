"""Reads: what other parts want to know of the database, in a number of queries that doesn't grow with the rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone
from django.utils.timesince import timesince

from registry_admin.consul import validation
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, Service
from registry_admin.reconcile.plan import Declared


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The declared side of a plan. `broken`: declared instances that can't be what they say, by ID, and why."""

    rows: Mapping[str, Instance]
    declared: tuple[Declared, ...]
    broken: Mapping[str, str]


def read_inventory(observed: Mapping[str, ServiceInstance], *, revive: Collection[str] = ()) -> Inventory:
    """All declared instances, each with what the mirror remembers of it.

    An instance that registered itself and isn't in Consul any more has left by itself; for the services named in
    `revive` that is overlooked.
    """
    rows = {row.consul_id: row for row in Instance.objects.select_related("service").order_by()}
    gone = rows.keys() - observed.keys()
    left = set(
        ObservedInstance.objects.filter(registered_itself=True).order_by().values_list("consul_id", flat=True)
        if gone
        else ()
    )
    declared, broken = [], {}
    for consul_id, row in rows.items():
        try:
            spec = row.spec()
            validation.service_id(consul_id)
        except (InvalidValueError, TypeError, ValueError) as error:
            broken[consul_id] = str(error)
            continue
        departed = consul_id in gone and (row.departed or consul_id in left) and row.service.name not in revive
        enabled = row.enabled and row.service.enabled
        declared.append(Declared(spec=spec, enabled=enabled, claimed=row.claimed, departed=departed))
    return Inventory(rows=rows, declared=tuple(declared), broken=broken)


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """How old what we know of Consul is; `problem` is empty while it is current."""

    seen_at: datetime | None
    since: datetime | None
    problem: str

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
    now = now or timezone.now()
    contact = ConsulContact.objects.filter(pk=1).first()
    if contact is None or (contact.reachable and contact.seen_at is None):
        return Freshness(seen_at=None, since=None, problem="Consul has not been looked at yet. Is the watcher running?")
    if not contact.reachable:
        return Freshness(seen_at=contact.seen_at, since=contact.since, problem=contact.problem)
    assert contact.seen_at is not None  # noqa: S101 - for the type checker; see above
    if now - contact.seen_at > timedelta(seconds=conf.stale_after_s):
        problem = "Nobody has looked at Consul since. Is the watcher (manage.py sync_registry --watch) running?"
        return Freshness(seen_at=contact.seen_at, since=contact.seen_at, problem=problem)
    return Freshness(seen_at=contact.seen_at, since=contact.since, problem="")


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
    """A service with its declared instances beside the observed ones of its name or IDs, or None. Three queries."""
    service = Service.objects.filter(pk=pk).first()
    if service is None:
        return None
    declared = {row.consul_id: row for row in Instance.objects.filter(service=service)}
    of_service = Q(service_name__iexact=service.name) | Q(consul_id__in=list(declared))
    observed = {row.consul_id: row for row in ObservedInstance.objects.filter(of_service)}
    rows = (
        PaneRow(declared=declared.get(consul_id), observed=observed.get(consul_id))
        for consul_id in sorted(declared.keys() | observed.keys())
    )
    return ServicePane(service=service, rows=tuple(rows))
