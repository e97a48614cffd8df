"""Writes declarations as a document that the importer takes back without loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.exchange.document import VERSION
from registry_admin.inventory.exchange.formats import DEFAULT_FORMAT, OWN_FORMATS
from registry_admin.inventory.models import AuditEvent, Instance, Service
from registry_admin.inventory.models.declared_fields import CHECK, declared_fields
from registry_admin.inventory.models.secrets import hidden


def export_document(services: Iterable[Service], *, fmt: str = DEFAULT_FORMAT, with_secrets: bool = False) -> str:
    """Returns the declared fields of these services and their instances as a document, and records that. Three queries.

    `fmt` is a name in OWN_FORMATS. Unless `with_secrets`, secret values are hidden: the document can be imported again
    where they are saved, and nowhere else.
    """
    rows = sorted(services, key=lambda service: service.name)
    instances: dict[int, list[Instance]] = {}
    for instance in Instance.objects.filter(service__in=[row.pk for row in rows]).order_by("address", "port"):
        instances.setdefault(instance.service_id, []).append(instance)
    entries = [
        _entry(service, with_secrets=with_secrets)
        | {"instances": [_entry(instance, with_secrets=with_secrets) for instance in instances.get(service.pk, [])]}
        for service in rows
    ]
    record_act(
        AuditEvent.Action.EXPORT,
        target=", ".join(row.name for row in rows),
        detail=f"{len(rows)} service(s){', with secrets' if with_secrets else ''}",
    )
    return OWN_FORMATS[fmt].dump({"format": VERSION, "services": entries})


def _entry(row: Service | Instance, *, with_secrets: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for field in declared_fields(type(row)):
        value = getattr(row, field.name)
        if field.is_secret and not with_secrets:
            value = hidden(value)
        if value is not None:
            target = entry.setdefault(CHECK, {}) if field.is_of_check else entry
            target[field.leaf] = field.type(value)
    return entry
