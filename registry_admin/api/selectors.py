"""Instances, declared or not, by their IDs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import BooleanField, Case, CharField, Exists, F, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce, Lower

from registry_admin.inventory.models import Instance, ObservedInstance


@dataclass(frozen=True, kw_only=True)
class InstanceFilter:
    """The instances to list. Empty: all of them."""

    service: str = ""
    health: str = ""
    sync: str = ""


class InstanceRow(NamedTuple):
    """An instance. One that isn't in Consul has no node and no health."""

    consul_id: str
    datacenter: str
    node: str
    service: str
    address: str
    port: int
    health: str
    sync: str
    reason: str
    is_declared: bool
    is_owned: bool
    changed: datetime

    @property
    def position(self) -> tuple[str, ...]:
        """Sort key of the list."""
        return self.consul_id, self.datacenter, self.node


def instances_after(
    filters: InstanceFilter, *, after: tuple[str, ...] | None, limit: int
) -> tuple[list[InstanceRow], bool]:
    """Returns up to `limit` instances after the position of the last one before, and whether more follow. One query."""
    present, absent = _present(filters), _absent(filters)
    if after is not None:
        consul_id, datacenter, node = after
        same = Q(consul_id=consul_id, datacenter__gt=datacenter) | Q(
            consul_id=consul_id, datacenter=datacenter, node__gt=node
        )
        present = present.filter(Q(consul_id__gt=consul_id) | same)
        absent = absent.filter(consul_id__gt=consul_id)
    columns = ["its_service", "address", "port", "its_health", "its_sync", "its_reason", "is_declared", "is_owned"]
    rows = present.values_list("consul_id", "datacenter", "node", *columns, "health_since").union(
        absent.values_list("consul_id", "its_datacenter", "its_node", *columns, "updated_at"), all=True
    )
    page = [InstanceRow._make(row) for row in rows.order_by("consul_id", "datacenter", "node")[: limit + 1]]
    return page[:limit], len(page) > limit


def _present(filters: InstanceFilter) -> Any:
    """Returns those in Consul, with the status of the declaration where there is one."""
    declared = Instance.objects.alias(key=Lower("consul_id")).filter(key=Lower(OuterRef("consul_id"))).order_by()
    rows = ObservedInstance.objects.order_by().annotate(
        its_service=F("service_name"),
        its_health=F("health"),
        its_sync=_of_declaration(declared, "sync_status"),
        its_reason=_of_declaration(declared, "sync_reason"),
        is_declared=F("declared"),
        is_owned=F("owned"),
    )
    return _filtered(rows, filters)


def _of_declaration(declared: QuerySet[Instance], column: str) -> Case:
    value = Coalesce(Subquery(declared.values(column)[:1]), F(column))
    return Case(When(declared=True, then=value), default=F(column), output_field=CharField())


def _absent(filters: InstanceFilter) -> Any:
    """Returns those that are declared and not in Consul."""
    observed = ObservedInstance.objects.filter(consul_id=OuterRef("consul_id"), declared=True)
    nothing, yes = Value("", output_field=CharField()), Value(value=True, output_field=BooleanField())
    rows = (
        Instance.objects.filter(~Exists(observed))
        .order_by()
        .annotate(
            its_datacenter=nothing,
            its_node=nothing,
            its_service=F("service__name"),
            its_health=nothing,
            its_sync=F("sync_status"),
            its_reason=F("sync_reason"),
            is_declared=yes,
            is_owned=yes,
        )
    )
    return _filtered(rows, filters)


def _filtered(rows: Any, filters: InstanceFilter) -> Any:
    if filters.service:
        rows = rows.alias(service_key=Lower("its_service")).filter(service_key=Lower(Value(filters.service)))
    if filters.health:
        rows = rows.filter(its_health=filters.health)
    if filters.sync:
        rows = rows.filter(its_sync=filters.sync)
    return rows
