"""A declaration that changes is synced as soon as its transaction has committed.

Saving or deleting a single row names it: the brake then lets it be the last of its service. Rows that change in bulk
are named by whoever asked a person.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver
from simple_history.signals import post_create_historical_record

from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.sync.on_commit import sync_on_commit
from registry_admin.inventory.sync.removals import approve_removals, ids_of_services, withdraw_approvals

_CHANGES = {"+": "Declared", "~": "Declaration changed", "-": "Declaration removed"}

logger = logging.getLogger(__name__)


@receiver(post_create_historical_record)
def log_change(history_instance: Any, **_kwargs: Any) -> None:
    """Logs a change of a single declaration once it is committed; bulk changes are acts of the audit trail."""
    row = history_instance
    target = f"instance {row.consul_id}" if hasattr(row, "consul_id") else f"service {row.name}"
    facts = {"event": "declaration", "actor": row.history_user_id, "via": row.history_change_reason, "target": target}
    transaction.on_commit(lambda: logger.info("%s", _CHANGES[row.history_type], extra=facts))


@receiver(pre_delete, sender=Service)
def name_deleted_service(instance: Service, *, origin: object = None, **_kwargs: Any) -> None:
    """Lets the service leave Consul as a whole, if it is deleted by itself."""
    if origin is instance:
        approve_removals(ids_of_services([instance.pk]))


@receiver(post_save, sender=Service)
def sync_saved_service(instance: Service, *, created: bool, raw: bool = False, **_kwargs: Any) -> None:
    """Syncs the service, except for `raw` rows: those come from loaddata, and the watcher syncs them.

    A service that is disabled or renamed may leave Consul as a whole.
    """
    if raw:
        return
    if not created and (not instance.enabled or instance.saved_name.lower() != instance.name.lower()):
        approve_removals(ids_of_services([instance.pk]))
    elif not created:
        withdraw_approvals(Instance.objects.filter(service=instance, enabled=True).values_list("consul_id", flat=True))
    sync_on_commit({instance.name, instance.saved_name} - {""})


@receiver(post_delete, sender=Service)
def sync_deleted_service(instance: Service, **_kwargs: Any) -> None:
    """Syncs the service."""
    sync_on_commit({instance.name, instance.saved_name} - {""})


@receiver(post_save, sender=Instance)
def sync_saved_instance(instance: Instance, *, created: bool, raw: bool = False, **_kwargs: Any) -> None:
    """Syncs the instance's service, except for `raw` rows. A disabled instance may be the last of its service."""
    if raw:
        return
    if not instance.enabled:
        approve_removals([instance.consul_id, *instance.replaces])
    elif created:
        withdraw_approvals([instance.consul_id])
    sync_on_commit({instance.service.name})


@receiver(post_delete, sender=Instance)
def sync_deleted_instance(instance: Instance, *, origin: object = None, **_kwargs: Any) -> None:
    """Syncs the instance's service, unless the instance is deleted together with it.

    If it is deleted by itself, it may be the last of its service.
    """
    if origin is instance:
        approve_removals([instance.consul_id, *instance.replaces])
    if not _is_of_service(origin):
        sync_on_commit({instance.service.name})


def _is_of_service(origin: object) -> bool:
    """Returns whether a deletion began with one or several services."""
    return isinstance(origin, Service) or (isinstance(origin, QuerySet) and origin.model is Service)
