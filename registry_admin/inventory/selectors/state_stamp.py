"""Stamp of all data that pages show; an unchanged page is answered by it in one query, as 304."""

from __future__ import annotations

import secrets

from django.db.models import Model, OuterRef, QuerySet, Subquery, Value
from django.db.models.expressions import Combinable
from django.utils import timezone

from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import ConsulContact, Instance, Lease, Service, SyncRun

ANY_READER = Value("")
RENEWAL_S = 60  # ages and availability bars change with time


def state_stamp(rights: Combinable = ANY_READER) -> str:
    """Returns a text that changes whenever a page would look different. One query.

    `rights`: an expression whose value changes with what the reader may see. Where it is NULL, the text is a new one.
    Covers the mirror, all declarations, the latest run, the leader, and the minute of the clock.
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
            rights=rights,
            expires_at=_last(lease, "expires_at"),
        )
        .first()
    )
    if row is None or row[-2] is None:  # no snapshot yet, or no valid session: nothing is unchanged
        return secrets.token_hex(8)
    now = timezone.now()
    *values, seen_at, expires_at = row[:2] + row[3:-1] + (row[2], row[-1])
    is_stale = seen_at is None or (now - seen_at).total_seconds() > conf.stale_after_s
    is_led = expires_at is not None and expires_at > now
    return repr((values, is_stale, is_led, int(now.timestamp()) // RENEWAL_S))


def _last(rows: QuerySet[Model], column: str) -> Subquery:
    return Subquery(rows.values(column)[:1])
