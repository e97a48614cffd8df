"""Whether anything that pages show has changed, told in one query: so an unchanged page costs next to nothing."""

from __future__ import annotations

import secrets

from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.utils import timezone

from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import ConsulContact, Instance, Lease, Service, SyncRun

RENEWED_EVERY_S = 60  # bars and ages move on though nothing happens


def state_stamp() -> str:
    """Another text whenever a page would look different. One query.

    It covers the mirror, every declaration, the latest run, who leads, and that time has gone on a minute.
    """
    latest_run = SyncRun.objects.order_by("-pk")
    lease = Lease.objects.filter(pk=OuterRef("pk"))
    row = (
        ConsulContact.objects.filter(pk=1)
        .values_list("revision", "reachable", "seen_at")
        .annotate(
            service=_last(Service.history.model.objects.order_by("-history_id"), "history_id"),
            instance=_last(Instance.history.model.objects.order_by("-history_id"), "history_id"),
            run=_last(latest_run, "pk"),
            run_outcome=_last(latest_run, "outcome"),
            run_seconds=_last(latest_run, "seconds"),
            holder=_last(lease, "holder"),
            next_pass_at=_last(lease, "next_pass_at"),
            expires_at=_last(lease, "expires_at"),
        )
        .first()
    )
    if row is None:  # nothing was ever looked at: let the page be made anew each time
        return secrets.token_hex(8)
    now = timezone.now()
    *others, seen_at, expires_at = row[:2] + row[3:-1] + (row[2], row[-1])
    is_stale = seen_at is None or (now - seen_at).total_seconds() > conf.stale_after_s
    is_led = expires_at is not None and expires_at > now
    return repr((others, is_stale, is_led, int(now.timestamp()) // RENEWED_EVERY_S))


def _last(rows: QuerySet[Model], column: str) -> Subquery:
    return Subquery(rows.values(column)[:1])
