"""A declaration that changes is synced as soon as its transaction has committed."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.services import sync_when_committed


@receiver([post_save, post_delete], sender=Service)
def sync_service(instance: Service, *, raw: bool = False, **_kwargs: Any) -> None:
    """Not for `raw` rows: those come from loaddata, and the watcher will see them."""
    if not raw:
        sync_when_committed({instance.name, instance.former_name} - {""})


@receiver([post_save, post_delete], sender=Instance)
def sync_instance(instance: Instance, *, raw: bool = False, origin: object = None, **_kwargs: Any) -> None:
    """As for the service; one that is deleted with its service needs no look of its own."""
    if not raw and not _is_of_service(origin):
        sync_when_committed({instance.service.name})


def _is_of_service(origin: object) -> bool:
    """Whether a deletion began with one or several services."""
    return isinstance(origin, Service) or (isinstance(origin, QuerySet) and origin.model is Service)
