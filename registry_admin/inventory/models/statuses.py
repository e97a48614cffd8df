"""The two axes on which everything is shown: how it relates to its declaration, and how healthy it is."""

from __future__ import annotations

from django.db import models

from registry_admin.consul import Health as ConsulHealth


class SyncStatus(models.TextChoices):
    """How a declaration and Consul relate. Values are those of reconcile.plan.SyncStatus."""

    SYNCED = "synced", "Synced"
    OUT_OF_SYNC = "out_of_sync", "Out of sync"
    MISSING = "missing", "Missing"
    EVICTED = "evicted", "Evicted"
    UNMANAGED = "unmanaged", "Unmanaged"
    DISABLED = "disabled", "Disabled"
    UNKNOWN = "unknown", "Unknown"


class Health(models.TextChoices):
    """What the checks say. Values are those of consul.types.Health."""

    PASSING = ConsulHealth.PASSING.value, "Passing"
    WARNING = ConsulHealth.WARNING.value, "Warning"
    CRITICAL = ConsulHealth.CRITICAL.value, "Critical"
    MAINTENANCE = ConsulHealth.MAINTENANCE.value, "Maintenance"
    UNKNOWN = ConsulHealth.UNKNOWN.value, "Unknown"
