"""What an import would take out of Consul, by the brake: asked before anything is written."""

from __future__ import annotations

from registry_admin.inventory.exchange.changes import Import
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.sync.removals import (
    RemovalPreview,
    approve_removals,
    ids_of_services,
    preview_removals,
    preview_renaming,
)


def preview_import_removals(prepared: Import) -> RemovalPreview:
    """Returns what would leave Consul, or its service there, and why the brake would hold it.

    A document names nothing by itself: a whole service that it leaves out, disables or renames is held until somebody
    confirms the number of removals.
    """
    leaving = _deleted(prepared) | _disabled(prepared)
    arriving = [
        (row.service.name, row.consul_id) for row in prepared.new[Instance] if row.enabled and row.service.enabled
    ]
    preview = preview_removals(leaving, named=False, arriving=arriving)
    renamed = [preview_renaming(ids, name=name) for name, ids in _moved(prepared).items()]
    return preview.joined_with(*renamed)


def approve_import_removals(preview: RemovalPreview) -> None:
    """Records that somebody has confirmed the number of removals. To be called within the import's transaction."""
    approve_removals(preview.ids, counted=bool(preview.held))


def _deleted(prepared: Import) -> set[str]:
    instances = {change.name for change in prepared.changes if change.action == "delete" and change.kind == "instance"}
    return instances | set(ids_of_services(row.pk for row in prepared.deleted[Service]))


def _disabled(prepared: Import) -> set[str]:
    return {
        row.consul_id
        for service, rows in prepared.declared
        for row in rows
        if row.pk and not (service.enabled and row.enabled)
    }


def _moved(prepared: Import) -> dict[str, list[str]]:
    """Returns the IDs of instances that get another service, by its name."""
    moved: dict[str, list[str]] = {}
    for change in prepared.changes:
        if (
            change.kind == "instance"
            and any(key == "service" for key, _, _ in change.fields)
            and change.action == "change"
        ):
            moved.setdefault(change.service, []).append(change.name)
    return moved
