"""Models: declarations, observed instances, history, and the watchers' lease."""

from registry_admin.consul import Health
from registry_admin.inventory.models.audit_events import AuditEvent
from registry_admin.inventory.models.counters import EventCounter
from registry_admin.inventory.models.documents import UploadedDocument
from registry_admin.inventory.models.history import EvictionHalt, HealthTransition, SyncRun
from registry_admin.inventory.models.identity import InventoryIdentity, ReleasedInstance
from registry_admin.inventory.models.instance import Instance
from registry_admin.inventory.models.lease import Lease
from registry_admin.inventory.models.observed import ConsulContact, ObservationGap, ObservedInstance
from registry_admin.inventory.models.removals import RemovalApproval
from registry_admin.inventory.models.service import MAX_CHECK_PATH, Service
from registry_admin.inventory.models.statuses import (
    AXES,
    HEALTHS,
    SYNC_STATUSES,
    Axis,
    Colour,
    Status,
)
from registry_admin.reconcile.plan import SyncStatus

__all__ = [
    "AXES",
    "HEALTHS",
    "MAX_CHECK_PATH",
    "SYNC_STATUSES",
    "AuditEvent",
    "Axis",
    "Colour",
    "ConsulContact",
    "EventCounter",
    "EvictionHalt",
    "Health",
    "HealthTransition",
    "Instance",
    "InventoryIdentity",
    "Lease",
    "ObservationGap",
    "ObservedInstance",
    "ReleasedInstance",
    "RemovalApproval",
    "Service",
    "Status",
    "SyncRun",
    "SyncStatus",
    "UploadedDocument",
]
