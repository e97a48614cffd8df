"""Freshness of the mirror and status of the leader, which pages show beside their rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import BooleanField, ExpressionWrapper, OuterRef, Q, Subquery
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.timesince import timesince

from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import ConsulContact, Lease


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Age of the mirror. `problem` is empty while it is current.

    `halted`: the reason while nothing is evicted. `doubt`: the reason while nothing is removed. `uncompared`: the
    reason while it isn't known whether the catalog, which callers ask, has what our agent says.
    """

    seen_at: datetime | None
    since: datetime | None
    problem: str
    halted: str = ""
    doubt: str = ""
    uncompared: str = ""

    @property
    def age(self) -> str:
        """Time since the last contact with Consul, such as `3 minutes`."""
        if self.seen_at is None or timezone.now() - self.seen_at < timedelta(minutes=1):
            return "less than a minute"
        return timesince(self.seen_at)

    @property
    def is_current(self) -> bool:
        """True if sync status and health may be shown as known."""
        return not self.problem


def freshness(now: datetime | None = None) -> Freshness:
    """Returns the age of the mirror, with the problem if it is too old. One query."""
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
    return Freshness(
        seen_at=contact.seen_at,
        since=contact.since,
        problem="",
        halted=contact.halted,
        doubt=contact.doubt,
        uncompared=contact.uncompared,
    )


@dataclass(frozen=True, kw_only=True)
class LeaseStatus:
    """The leading watcher, since when it leads, and when its next full run is due. `is_current`: the lease is valid."""

    holder: str
    since: datetime | None
    next_pass_at: datetime | None
    is_current: bool


def lease_status() -> LeaseStatus:
    """Returns the status of the lease, by the database's clock. One query."""
    is_current = ExpressionWrapper(Q(expires_at__gt=Now()), output_field=BooleanField())
    row = Lease.objects.filter(pk=1).annotate(is_current=is_current).first()
    if row is None or not row.holder:
        return LeaseStatus(holder="", since=None, next_pass_at=None, is_current=False)
    return LeaseStatus(
        holder=row.holder, since=row.since, next_pass_at=row.next_pass_at, is_current=bool(row.is_current)
    )


def freshness_and_lease() -> tuple[Freshness, LeaseStatus]:
    """Returns both, in one query once a snapshot was mirrored."""
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
        return _freshness(None, timezone.now()), lease_status()
    status = LeaseStatus(
        holder=contact.holder or "",
        since=contact.led_since if contact.holder else None,
        next_pass_at=contact.next_pass_at if contact.holder else None,
        is_current=bool(contact.holder and contact.is_led),
    )
    return _freshness(contact, timezone.now()), status
