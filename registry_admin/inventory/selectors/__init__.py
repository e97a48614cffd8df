"""Reads: what other parts want to know of the database, in a number of queries that doesn't grow with the rows."""

from registry_admin.inventory.selectors.declared import DeclaredRow, Inventory, read_inventory
from registry_admin.inventory.selectors.health import RecentChanges, critical_since, recent_changes
from registry_admin.inventory.selectors.pages import (
    Freshness,
    Leadership,
    PaneRow,
    ServicePane,
    freshness,
    freshness_and_lease,
    lease,
    service_pane,
)
from registry_admin.inventory.selectors.stamp import state_stamp
from registry_admin.inventory.selectors.trust import doubt, lost_state

__all__ = [
    "DeclaredRow",
    "Freshness",
    "Inventory",
    "Leadership",
    "PaneRow",
    "RecentChanges",
    "ServicePane",
    "critical_since",
    "doubt",
    "freshness",
    "freshness_and_lease",
    "lease",
    "lost_state",
    "read_inventory",
    "recent_changes",
    "service_pane",
    "state_stamp",
]
