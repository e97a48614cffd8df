"""What the watcher adds to a run of the reconciler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from registry_admin.consul import Snapshot
from registry_admin.inventory.models import HealthTransition
from registry_admin.inventory.selectors import Inventory
from registry_admin.reconcile.plan import PlanItem


class ReconcileHooks(Protocol):
    """Additions of the watcher to a run. Runs that people start have none: they neither evict nor need the lease."""

    @property
    def holder(self) -> str:
        """Name of the process that runs."""

    @property
    def halted(self) -> str:
        """Reason why evictions are halted, or empty."""

    @property
    def notes(self) -> Mapping[tuple[str, str], str]:
        """Remarks on instances beyond their status, such as "flaps", by node and instance ID."""

    def evictions(self, snapshot: Snapshot, inventory: Inventory) -> Mapping[str, str]:
        """Returns the reasons of the evictions that are due, by instance ID."""

    def is_deferred(self, item: PlanItem) -> bool:
        """Returns whether the item failed recently and must wait for its next attempt."""

    def confirm_leadership(self) -> bool:
        """Returns whether this process leads, according to the database. Called before a plan with removals starts."""

    def on_transition(self, transition: HealthTransition) -> None:
        """Handles a change of an instance's health."""

    def stop_reason(self) -> str:
        """Returns the reason to start nothing more, or an empty text. Called often, and before each removal."""
