"""Writes declarations as a document that `reading` takes back without loss."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml

from registry_admin.inventory.exchange.reading import CHECK_KEYS, FORMAT
from registry_admin.inventory.models import Instance, Service

FORMATS = ("yaml", "json")


def export_document(services: Iterable[Service], *, fmt: str = "yaml") -> str:
    """All that people declare of these services, and nothing that syncing notes beside it. Two queries.

    `fmt` is `yaml` or `json`.
    """
    rows = list(services)
    by_service: dict[int, list[Instance]] = {}
    for instance in Instance.objects.filter(service__in=[row.pk for row in rows]).order_by("address", "port"):
        by_service.setdefault(instance.service_id, []).append(instance)
    listed = [_service(row, by_service.get(row.pk, [])) for row in sorted(rows, key=lambda row: row.name)]
    document = {"format": FORMAT, "services": listed}
    if fmt == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _service(row: Service, instances: Iterable[Instance]) -> dict[str, Any]:
    check = {key: getattr(row, key if key == "deregister_after" else f"check_{key}") for key in CHECK_KEYS}
    return {
        "name": row.name,
        "description": row.description,
        "owner": row.owner,
        "documentation_url": row.documentation_url,
        "tags": list(row.tags),
        "meta": dict(row.meta),
        "enabled": row.enabled,
        "check": {key: str(value) for key, value in check.items()},
        "instances": [_instance(instance) for instance in instances],
    }


def _instance(row: Instance) -> dict[str, Any]:
    return {
        "address": row.address,
        "port": row.port,
        "id": row.consul_id,
        "weight": row.weight,
        "tags": list(row.extra_tags),
        "meta": dict(row.extra_meta),
        "enabled": row.enabled,
    }
