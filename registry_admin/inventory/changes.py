"""Noticing that declarations have changed, whichever process changed them: the watcher then looks at once."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Count, Max

from registry_admin.inventory.lease import FREED_CHANNEL
from registry_admin.inventory.models import Instance, Service

logger = logging.getLogger(__name__)

DECLARED_CHANNEL = "registry_admin_declarations"  # as in migration 0003, whose triggers notify it
POLL_S = 1.0  # where the database can't notify
SAFETY_POLL_S = 10.0  # where it can: a pooler between may keep notifications to itself
NOTICE_STOP_S = 0.5
LONGEST_BACKOFF_S = 10.0


class DeclarationChanges:
    """Calls `wake` on a thread of its own, with its own connection, whenever declarations may have changed.

    Also after each time that the connection was lost, because something may have been missed. `lease_freed` is called
    when another watcher has given the lease back. Both must return at once.
    """

    def __init__(self, wake: Callable[[], object], *, lease_freed: Callable[[], object] = lambda: None) -> None:
        self._wake = wake
        self._lease_freed = lease_freed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="declarations", daemon=True)
        self._seen: object = None

    def start(self) -> None:
        """Begins listening. What changed before is not told."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ends, and waits at most `timeout_s` for that."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                self._begin()
                if failures:
                    logger.info("declarations can be watched again")
                    self._wake()
                failures = 0
                self._notice()
            except (DatabaseError, InterfaceError) as error:
                failures += 1
                if failures == 1:
                    logger.warning("declarations can't be watched: %s", str(error).strip().partition("\n")[0])
                self._stop.wait(min(LONGEST_BACKOFF_S, 2.0**failures / 4) * (0.5 + random.random() / 2))  # noqa: S311
            finally:
                connection.close()

    def _begin(self) -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {DECLARED_CHANNEL}")
                cursor.execute(f"LISTEN {FREED_CHANNEL}")
        self._seen = _state()

    def _notice(self) -> None:
        """Until it is to end; raises the database's error where the connection is lost."""
        listens = connection.vendor == "postgresql"
        poll_s = SAFETY_POLL_S if listens else POLL_S
        while not self._stop.is_set():
            polled = time.monotonic()
            while not self._stop.is_set() and (rest := polled + poll_s - time.monotonic()) > 0:
                if listens:
                    self._listen(min(rest, NOTICE_STOP_S))
                else:
                    self._stop.wait(rest)
            if not self._stop.is_set() and (state := _state()) != self._seen:
                self._seen = state
                self._wake()

    def _listen(self, timeout_s: float) -> None:
        with connection.wrap_database_errors:
            channels = {found.channel for found in connection.connection.notifies(timeout=timeout_s, stop_after=1)}
        if FREED_CHANNEL in channels:
            self._lease_freed()
        if DECLARED_CHANNEL in channels:
            self._wake()
            self._seen = _state()


def _state() -> object:
    """Something that differs once a declaration was saved or deleted."""
    return [
        model.objects.order_by().aggregate(rows=Count("pk"), newest=Max("updated_at")) for model in (Service, Instance)
    ]
