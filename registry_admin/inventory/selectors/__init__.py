"""Reads of the inventory, each in a number of queries that doesn't grow with the rows."""

from registry_admin.inventory.selectors.completeness import agent_lost_state, incomplete_reason, uncompared_reason
from registry_admin.inventory.selectors.declarations import DeclaredRow, Inventory, read_inventory
from registry_admin.inventory.selectors.freshness import (
    Freshness,
    LeaseStatus,
    freshness,
    freshness_and_lease,
    lease_status,
)
from registry_admin.inventory.selectors.health import (
    RecentChanges,
    critical_since,
    observed_s,
    recent_changes,
    recent_halts,
    relapses,
)
from registry_admin.inventory.selectors.identity import former_declarations, read_owner
from registry_admin.inventory.selectors.removals import brake_for, brake_for_declarations
from registry_admin.inventory.selectors.state_stamp import state_stamp

__all__ = [
    "DeclaredRow",
    "Freshness",
    "Inventory",
    "LeaseStatus",
    "RecentChanges",
    "agent_lost_state",
    "brake_for",
    "brake_for_declarations",
    "critical_since",
    "former_declarations",
    "freshness",
    "freshness_and_lease",
    "incomplete_reason",
    "lease_status",
    "observed_s",
    "read_inventory",
    "read_owner",
    "recent_changes",
    "recent_halts",
    "relapses",
    "state_stamp",
    "uncompared_reason",
]
