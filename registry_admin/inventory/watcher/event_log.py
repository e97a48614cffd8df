"""The watcher's event log: one line, with facts for machines, for each change that it makes or sees."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from registry_admin.consul import Health
from registry_admin.errors import UnsafePlanError
from registry_admin.inventory.models import HealthTransition
from registry_admin.inventory.sync.result import SyncResult
from registry_admin.printable import escape_unprintable
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.rendering import PAST

logger = logging.getLogger(__name__)

_MAX_OUTPUT = 200


class EventLog:
    """Logs what happens; a problem that lasts is logged once, and once more when it is over."""

    def __init__(self) -> None:
        self._halted = ""
        self._problem = ""

    def log_eviction_state(self, halted: str, *, is_alarming: bool = False) -> None:
        """Logs that evictions are halted, have been so for too long, or resumed, if that has changed.

        `halted` is the reason, if there is one.
        """
        event = "eviction_halt_alarm" if halted and is_alarming else "eviction_halted" if halted else ""
        if event == self._halted:
            return
        self._halted = event
        if event:
            logger.log(logging.ERROR if is_alarming else logging.WARNING, "%s", halted, extra={"event": event})
        else:
            logger.info("evicting again", extra={"event": "eviction_resumed"})

    @staticmethod
    def log_transition(transition: HealthTransition) -> None:
        """Logs a change of health. Evictions and new instances have log lines of their own."""
        if not transition.before or transition.after == HealthTransition.EVICTED:
            return
        facts = {
            "event": "health", "instance": transition.consul_id, "service": transition.service_name,
            "before": transition.before, "output": transition.output[:_MAX_OUTPUT],
        }  # fmt: skip
        level = logging.WARNING if transition.after in (Health.CRITICAL, Health.WARNING) else logging.INFO
        logger.log(level, "%s", transition.after or "gone", extra=facts)

    def log_run(self, result: SyncResult, retry_in_s: Mapping[str, float]) -> None:
        """Logs the items of a run, and its problem if that has changed. `retry_in_s`: of failed items, by ID."""
        for item_result in result.results:
            if item_result.ok:
                logger.info("%s", PAST[item_result.item.action], extra=_facts(item_result))
            elif item_result.attempted:
                failure = {"error": item_result.error, "retry_in_s": retry_in_s[item_result.item.id]}
                logger.error("failed to %s", item_result.item.action, extra=_facts(item_result) | failure)
        self._log_problem(_problem(result))

    def _log_problem(self, problem: str) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        if problem:
            logger.warning("%s", escape_unprintable(problem), extra={"event": "problem"})
        else:
            logger.info("all is well again", extra={"event": "recovered"})

    @staticmethod
    def log_housekeeping(*, abandoned: int, deleted: Mapping[str, int]) -> None:
        """Logs how many runs were closed and how many rows of each kind were deleted, where there were any."""
        if abandoned:
            logger.warning("runs of a former leader were abandoned", extra={"event": "abandoned", "runs": abandoned})
        if any(deleted.values()):
            logger.info("old history is deleted", extra={"event": "history_pruned", **deleted})


def _facts(item_result: ItemResult) -> dict[str, object]:
    item = item_result.item
    facts: dict[str, object] = {
        "event": str(item.action), "instance": item.id, "service": item.service, "reason": item.reason,
        "cause": item.cause.label if item.cause else "", "seconds": item_result.seconds,
    }  # fmt: skip
    return facts | ({"changed": ", ".join(change.field for change in item.changes)} if item.changes else {})


def _problem(result: SyncResult) -> str:
    if isinstance(result.error, UnsafePlanError):
        return f"{result.error} Would remove: {', '.join(result.error.would_remove)}"
    return "; ".join(f"{instance_id}: {error}" for instance_id, error in sorted(result.invalid.items()))
