"""The operations of the API. Each reads what a page shows, by the page's own selectors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.utils import timezone
from ninja import Query, Router, Schema

from registry_admin.api.cursors import make_cursor, read_cursor
from registry_admin.api.problems import FieldError, Problem, ProblemDocument
from registry_admin.api.schemas import (
    InstanceItem,
    InstanceList,
    InstancesQuery,
    Leader,
    ListQuery,
    Mirror,
    ServiceItem,
    ServiceList,
    ServiceReply,
    ServicesQuery,
    StatusReply,
)
from registry_admin.api.selectors import InstanceFilter, InstanceRow, instances_after
from registry_admin.consul import Health
from registry_admin.dashboard import service_name as _service_name  # noqa: F401 - registers the converter
from registry_admin.dashboard.overview_row import ServiceRow
from registry_admin.dashboard.selectors.overview import OverviewFilter, counts, service_row, services_after
from registry_admin.inventory.models import HEALTHS, SYNC_STATUSES
from registry_admin.inventory.selectors import Freshness, freshness, freshness_and_lease
from registry_admin.reconcile.plan import SyncStatus

PROBLEMS = dict.fromkeys((400, 401, 404, 405, 413, 422, 429, 500, 503), ProblemDocument)

router = Router()


@router.get(
    "/status", response={200: StatusReply, **PROBLEMS}, operation_id="getStatus", summary="The registry's state"
)
def get_status(request: HttpRequest) -> JsonResponse:
    """Contact with Consul, the leading watcher, and the numbers of services by status."""
    _check_names(request, ())
    its_freshness, lease = freshness_and_lease()
    numbers = counts(OverviewFilter())
    reply = StatusReply(
        mirror=Mirror.of(its_freshness),
        seen_at=its_freshness.seen_at,
        leader=Leader(holder=lease.holder, since=lease.since) if lease.is_current else None,
        evictions_halted=its_freshness.halted,
        removals_halted=its_freshness.doubt,
        services=numbers.total,
        needing_attention=numbers.needing_attention,
        by_last_health={value: numbers.health.get(value, 0) for value in HEALTHS.values},
        by_last_sync={value: numbers.sync.get(value, 0) for value in SYNC_STATUSES.values},
    )
    return JsonResponse(reply.model_dump(mode="json"))


@router.get("/services", response={200: ServiceList, **PROBLEMS}, operation_id="listServices", summary="Services")
def list_services(request: HttpRequest, query: Query[ServicesQuery]) -> JsonResponse:
    """Services by name, declared or only in Consul."""
    filters, names = _read(request, query, ServiceItem)
    position = read_cursor(query.cursor, filters, columns=2)
    chosen = OverviewFilter(
        search=query.q.strip(),
        health=query.health or "",
        sync=query.sync or "",
        kind=query.kind or "",
        owner=query.owner,
    )
    after = (position[0], position[1]) if position else None
    rows, has_more = services_after(chosen, after=after, limit=query.limit, now=timezone.now())
    its_freshness = freshness()
    return JsonResponse(
        {
            "items": [_selected(_service_item(row, its_freshness), names) for row in rows],
            "next": make_cursor(filters, (rows[-1].key, rows[-1].name)) if has_more else None,
            "mirror": Mirror.of(its_freshness).model_dump(),
        }
    )


@router.get(
    "/services/{service_name:name}",
    response={200: ServiceReply, **PROBLEMS},
    operation_id="getService",
    summary="A service",
)
def get_service(request: HttpRequest, name: str) -> JsonResponse:
    """A service by its name, upper and lower case alike; `href` in a list has the address of each."""
    _check_names(request, ())
    row = service_row(name, now=timezone.now())
    if row is None:
        raise Problem(404, "No service of this name is declared or in Consul. /api/v1/services lists them.")
    its_freshness = freshness()
    item = _service_item(row, its_freshness)
    return JsonResponse({**item.model_dump(mode="json"), "mirror": Mirror.of(its_freshness).model_dump()})


@router.get("/instances", response={200: InstanceList, **PROBLEMS}, operation_id="listInstances", summary="Instances")
def list_instances(request: HttpRequest, query: Query[InstancesQuery]) -> JsonResponse:
    """Instances by ID, declared or only in Consul."""
    filters, names = _read(request, query, InstanceItem)
    chosen = InstanceFilter(service=query.service, health=query.health or "", sync=query.sync or "")
    after = read_cursor(query.cursor, filters, columns=3)
    rows, has_more = instances_after(chosen, after=after, limit=query.limit)
    its_freshness = freshness()
    return JsonResponse(
        {
            "items": [_selected(_instance_item(row, its_freshness), names) for row in rows],
            "next": make_cursor(filters, rows[-1].position) if has_more else None,
            "mirror": Mirror.of(its_freshness).model_dump(),
        }
    )


def _check_names(request: HttpRequest, known: Collection[str]) -> None:
    """Raises Problem for a parameter that the operation doesn't have, or that is given twice."""
    errors = [
        FieldError(name, f"leave it out; there are: {', '.join(known) or 'none'}")
        for name in request.GET
        if name not in known
    ]
    errors += [FieldError(name, "give it once") for name, values in request.GET.lists() if len(values) > 1]
    if errors:
        raise Problem(422, "Parameters are wrong.", errors=errors)


def _read(request: HttpRequest, query: ListQuery, item: type[Schema]) -> tuple[dict[str, Any], list[str]]:
    """Returns the filters of a list and the names of the fields to return. Raises Problem for what there isn't."""
    _check_names(request, type(query).model_fields)
    names = [name.strip() for name in query.fields.split(",")] if query.fields else list(item.model_fields)
    unknown = [name for name in names if name not in item.model_fields]
    if unknown:
        raise Problem(
            422, "Parameters are wrong.", errors=[FieldError("fields", f"give of: {', '.join(item.model_fields)}")]
        )
    return query.model_dump(mode="json", exclude={"limit", "cursor", "fields"}), names


def _selected(item: Schema, names: list[str]) -> dict[str, Any]:
    return item.model_dump(mode="json", include=set(names))


def _service_item(row: ServiceRow, its_freshness: Freshness) -> ServiceItem:
    return ServiceItem(
        name=row.name,
        href=reverse("api:get_service", args=[row.name]),
        declared=row.is_declared,
        registers_itself=row.registers_itself,
        owner=row.owner,
        health=_health(row.health, its_freshness),
        sync=_sync(row.sync, its_freshness),
        last_health=Health(row.health),
        last_sync=SyncStatus(row.sync),
        instances=row.instances,
        changed=row.changed,
    )


def _instance_item(row: InstanceRow, its_freshness: Freshness) -> InstanceItem:
    return InstanceItem(
        id=row.consul_id,
        service=row.service,
        datacenter=row.datacenter,
        node=row.node,
        address=row.address,
        port=row.port,
        declared=row.is_declared,
        owned=row.is_owned,
        in_consul=bool(row.health),
        health=_health(row.health, its_freshness) if row.health else None,
        sync=_sync(row.sync, its_freshness),
        last_health=Health(row.health) if row.health else None,
        last_sync=SyncStatus(row.sync),
        reason=row.reason,
        health_since=row.changed if row.health else None,
    )


def _health(value: str, its_freshness: Freshness) -> Health:
    return Health(value) if its_freshness.is_current or HEALTHS[value].is_certain else Health.UNKNOWN


def _sync(value: str, its_freshness: Freshness) -> SyncStatus:
    return SyncStatus(value) if its_freshness.is_current or SYNC_STATUSES[value].is_certain else SyncStatus.UNKNOWN
