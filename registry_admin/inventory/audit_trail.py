"""Writes the audit trail: a row and a log line for each act, and for each refusal."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.models import AuditEvent
from registry_admin.inventory.sanitize import truncated
from registry_admin.request_context import current_request

MAX_DETAIL = 2000
REFUSALS_PER_MINUTE = 30  # rows of each process: strangers cause refusals, as many as they like

logger = logging.getLogger(__name__)


class RowBudget:
    """Allows `most` rows within a minute."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._ends_at = clock()
        self._left = most

    def take(self) -> bool:
        """Returns whether another row may be written."""
        with self._lock:
            if self._clock() >= self._ends_at:
                self._ends_at, self._left = self._clock() + 60, self._most
            self._left -= 1
            return self._left >= 0


_refusals = RowBudget(REFUSALS_PER_MINUTE)


def record_act(action: AuditEvent.Action, *, target: str = "", detail: str = "", actor: str | None = None) -> None:
    """Records what the current actor, or `actor`, has done to `target`.

    A command says on its own output what it does, so its line is for those who ask for more (LOG_LEVEL=DEBUG).
    """
    event = _event(action, target=target, detail=detail, actor=actor)
    _log(logging.INFO if current_request().request_id else logging.DEBUG, event)
    _save(event)


def record_refusal(action: AuditEvent.Action, *, target: str = "", detail: str = "", actor: str | None = None) -> None:
    """Records a refusal: a line and a row; for strangers a row while there are not too many."""
    event = _event(action, target=target, detail=detail, actor=actor)
    _log(logging.WARNING, event)
    if event.actor or _refusals.take():
        _save(event)


def _event(action: AuditEvent.Action, *, target: str, detail: str, actor: str | None) -> AuditEvent:
    current, request = current_actor(), current_request()
    return AuditEvent(
        action=action,
        actor=truncated(current.name if actor is None else actor, 150),
        via=truncated(current.via, 100),
        address=request.address[:64],
        target=truncated(target),
        detail=truncated(detail, MAX_DETAIL),
        request_id=request.request_id,
    )


def _log(level: int, event: AuditEvent) -> None:
    facts = {name: getattr(event, name) for name in ("actor", "via", "address", "target", "detail")}
    logger.log(
        level, "%s", event.get_action_display(), extra={"event": event.action, **{k: v for k, v in facts.items() if v}}
    )


def _save(event: AuditEvent) -> None:
    """Writes the row. What it tells of has happened already, so a database that is away leaves the log line alone."""
    try:
        with database_errors():
            event.save()
    except DatabaseUnavailableError as error:
        logger.error("The audit trail lacks a row: %s", error, extra={"event": event.action})  # noqa: TRY400
