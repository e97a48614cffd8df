"""Retries of plan items: which items wait after a failure or an edit war, and when the next one is due."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from registry_admin.inventory.sync.result import SyncResult
from registry_admin.reconcile.item_backoff import ContentionTracker, ItemBackoff
from registry_admin.reconcile.plan import Cause, PlanItem

NOT_ATTEMPTED_RETRY_S = 1.0  # for items that were planned and not begun
_MANUAL_CAUSES = (Cause.EDITED, Cause.REMOVED)


class ItemRetries:
    """Backoff of each failed item, and of each that is changed by somebody else after every repair."""

    def __init__(self) -> None:
        self._backoff = ItemBackoff()
        self._contention = ContentionTracker()

    def is_deferred(self, item: PlanItem) -> bool:
        """Returns whether the item must wait."""
        now = time.monotonic()
        if item.cause in _MANUAL_CAUSES and self._contention.wait_s(item.id, now):
            return True
        return not self._backoff.is_due(item.id, _digest(item), now)

    def record(self, result: SyncResult) -> dict[str, float]:
        """Takes the results of a run into account; returns the seconds until the retry of each failed item, by ID."""
        now = time.monotonic()
        retry_in_s = {}
        for item_result in result.results:
            item = item_result.item
            if item_result.ok:
                self._backoff.succeeded(item.id)
                if item.cause in _MANUAL_CAUSES:
                    self._contention.record_repair(item.id, now)
            elif item_result.attempted:
                retry_in_s[item.id] = self._backoff.failed(item.id, _digest(item), now)
        if result.plan is not None:
            self._backoff.keep_only({item.id for item in result.plan.changes})
        return retry_in_s

    def next_in_s(self, result: SyncResult) -> float | None:
        """Returns the seconds until something that `result` left undone is due, or None."""
        now = time.monotonic()
        changes: Sequence[PlanItem] = result.plan.changes if result.plan else ()
        due_s = [wait_s for item in changes if (wait_s := self._contention.wait_s(item.id, now))]
        if (backoff_s := self._backoff.next_in_s(now)) is not None:
            due_s.append(backoff_s)
        if self._has_undeferred(changes, attempted={each.item.id for each in result.results if each.attempted}):
            due_s.append(NOT_ATTEMPTED_RETRY_S)
        return min(due_s, default=None)

    def contention_messages(self) -> dict[str, str]:
        """Returns a remark on each instance that is in an edit war, by ID."""
        return self._contention.messages(time.monotonic())

    def _has_undeferred(self, changes: Iterable[PlanItem], *, attempted: set[str]) -> bool:
        return any(item.id not in attempted and not self.is_deferred(item) for item in changes)


def _digest(item: PlanItem) -> str:
    return item.spec.digest if item.spec else ""
