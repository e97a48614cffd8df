"""What should be, what Consul was seen to have, what was done, and who leads."""

from registry_admin.inventory.models.calls import CallCount
from registry_admin.inventory.models.declared import MAX_CHECK_PATH, Instance, Service
from registry_admin.inventory.models.history import HealthTransition, SyncRun
from registry_admin.inventory.models.lease import Lease
from registry_admin.inventory.models.observed import ConsulContact, ObservationGap, ObservedInstance
from registry_admin.inventory.models.statuses import Health, SyncStatus

__all__ = [
    "MAX_CHECK_PATH",
    "CallCount",
    "ConsulContact",
    "Health",
    "HealthTransition",
    "Instance",
    "Lease",
    "ObservationGap",
    "ObservedInstance",
    "Service",
    "SyncRun",
    "SyncStatus",
]
