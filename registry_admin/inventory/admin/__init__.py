"""The operator's view: declarations beside what Consul has, in the stock Django admin."""

from registry_admin.inventory.admin.declared import ServiceAdmin
from registry_admin.inventory.admin.history import HealthTransitionAdmin, SyncRunAdmin
from registry_admin.inventory.admin.observed import ObservedInstanceAdmin

__all__ = ["HealthTransitionAdmin", "ObservedInstanceAdmin", "ServiceAdmin", "SyncRunAdmin"]
