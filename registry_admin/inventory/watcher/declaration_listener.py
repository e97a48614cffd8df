"""Listener for changed declarations, whichever process changed them."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Count, Max

from registry_admin.backoff import ExponentialBackoff
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.watcher.lease import RELEASED_CHANNEL

logger = logging.getLogger(__name__)

DECLARED_CHANNEL = "registry_admin_declarations"  # notified by the triggers of migration 0003
POLL_S = 1.0  # for databases without notifications
SAFETY_POLL_S = 10.0  # for PostgreSQL: a connection pooler may swallow notifications
STOP_CHECK_S = 0.5
RETRY = ExponentialBackoff(first_s=0.5, longest_s=10.0, jitter=0.5)


class DeclarationListener:
    """Calls `on_change` whenever declarations may have changed, on a thread with its own connection.

    Calls it also after the connection was lost, because a change may have been missed. `on_lease_released` is called
    when another watcher has released the lease. Both must return at once.
    """

    def __init__(
        self, on_change: Callable[[], object], *, on_lease_released: Callable[[], object] = lambda: None
    ) -> None:
        self._on_change = on_change
        self._on_lease_released = on_lease_released
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="declarations", daemon=True)
        self._known_state: object = None

    def start(self) -> None:
        """Starts the thread. Earlier changes are not reported."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Stops the thread; waits at most `timeout_s` seconds for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                self._subscribe()
                if failures:
                    logger.info("declarations can be watched again")
                    self._on_change()
                failures = 0
                self._watch()
            except (DatabaseError, InterfaceError) as error:
                failures += 1
                if failures == 1:
                    logger.warning("declarations can't be watched: %s", str(error).strip().partition("\n")[0])
                self._stop.wait(RETRY.pause_s(failures, random.random()))  # noqa: S311
            finally:
                connection.close()

    def _subscribe(self) -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {DECLARED_CHANNEL}")
                cursor.execute(f"LISTEN {RELEASED_CHANNEL}")
        self._known_state = _state()

    def _watch(self) -> None:
        """Reports changes until `stop` is called. Raises the database's error when the connection is lost."""
        listens = connection.vendor == "postgresql"
        poll_s = SAFETY_POLL_S if listens else POLL_S
        while not self._stop.is_set():
            polled_at = time.monotonic()
            while not self._stop.is_set() and (remaining_s := polled_at + poll_s - time.monotonic()) > 0:
                if listens:
                    self._listen(min(remaining_s, STOP_CHECK_S))
                else:
                    self._stop.wait(remaining_s)
            if not self._stop.is_set() and (state := _state()) != self._known_state:
                self._known_state = state
                self._on_change()

    def _listen(self, timeout_s: float) -> None:
        with connection.wrap_database_errors:
            channels = {
                notification.channel for notification in connection.connection.notifies(timeout=timeout_s, stop_after=1)
            }
        if RELEASED_CHANNEL in channels:
            self._on_lease_released()
        if DECLARED_CHANNEL in channels:
            self._on_change()
            self._known_state = _state()


def _state() -> object:
    """Returns a value that differs after a declaration was saved or deleted."""
    return [
        model.objects.order_by().aggregate(rows=Count("pk"), newest=Max("updated_at")) for model in (Service, Instance)
    ]
