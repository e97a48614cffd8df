"""The inventory's identity, and what it declared once: whose an instance in Consul is follows from both."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db.models import OuterRef, Subquery
from django.db.models.functions import Lower

from registry_admin.consul import Owner, ServiceInstance
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import Instance, InventoryIdentity, ReleasedInstance
from registry_admin.reconcile.ownership import Endpoint, FormerDeclarations, is_issued_by

_IDS_IN_QUERY = 5000


def read_owner() -> Owner:
    """Returns this inventory as its marks name it. One query; the first time in an empty database two more.

    Read it after the snapshot: a revision is committed before anything carries it.
    """
    row = InventoryIdentity.objects.filter(pk=1).first()
    if row is None:
        InventoryIdentity.objects.bulk_create([InventoryIdentity(pk=1)], ignore_conflicts=True)
        row = InventoryIdentity.objects.get(pk=1)
    return Owner(
        name=conf.owner,
        inventory=row.uuid.hex,
        revision=row.revision,
        newest_revision=row.newest_revision,
        lost_after=row.lost_after,
        lost_until=row.lost_until,
    )


def former_declarations(
    instances: Iterable[ServiceInstance], owner: Owner, *, declared: Iterable[str]
) -> FormerDeclarations:
    """Returns what was declared once, of the instances that carry our mark and aren't `declared`: instance IDs.

    One query, and none where there are no such instances.
    """
    known = set(declared)
    ids = sorted({instance.id for instance in instances if instance.id not in known and is_issued_by(instance, owner)})
    endpoints: dict[str, set[Endpoint]] = {}
    declared_at: dict[str, datetime] = {}
    released_at: dict[str, datetime | None] = {}
    releases = ReleasedInstance.objects.annotate(key=Lower("consul_id")).filter(key=Lower(OuterRef("consul_id")))
    for start in range(0, len(ids), _IDS_IN_QUERY):
        versions = (
            Instance.history.filter(consul_id__in=ids[start : start + _IDS_IN_QUERY])
            .order_by()
            .values_list(
                "consul_id", "address", "port", "history_type", "history_date", Subquery(releases.values("at")[:1])
            )
        )
        for key, address, port, kind, date, at in versions.iterator():
            endpoints.setdefault(key, set()).add((address, port))
            released_at[key] = at
            if kind != "-":
                declared_at[key] = max(date, declared_at.get(key, date))
    released = {key for key, at in released_at.items() if at and at >= declared_at.get(key, at)}
    return FormerDeclarations(
        endpoints={key: frozenset(places) for key, places in endpoints.items()}, released=frozenset(released)
    )
