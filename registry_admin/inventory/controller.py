"""What `sync_registry --watch` runs: one leader that looks whenever something changes, evicts and brings back."""

from __future__ import annotations

import logging
import queue
import threading

from django.db import connections

from registry_admin.errors import StoreUnavailableError
from registry_admin.inventory import selectors
from registry_admin.inventory.changes import DeclarationChanges
from registry_admin.inventory.leadership import Leadership
from registry_admin.inventory.lease import LeaseKeeper
from registry_admin.inventory.store import database_errors
from registry_admin.reconcile.watcher import Watcher

logger = logging.getLogger(__name__)

SETTLE_S = 0.2  # whoever saves a declaration syncs it too: let that be the one who does it
LONGEST_WAIT_S = 0.5  # for a signal, where nothing else would wake the main thread


class Controller:
    """Stands by until it has the lease, leads until it loses it or is stopped, and frees it at the end."""

    def __init__(self, *, prune: bool = True, force: bool = False) -> None:
        self._prune, self._force = prune, force
        self._lease = LeaseKeeper(on_change=self._lease_changed)
        self._changes = DeclarationChanges(self._declarations_changed, lease_freed=self._lease.try_now)
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._watcher: Watcher | None = None
        self._settling: threading.Timer | None = None

    def run(self) -> None:
        """Until `stop` is called."""
        self._lease.start()
        self._changes.start()
        try:
            said = False
            while not self._stopping:
                if self._lease.is_held:
                    said = False
                    self._lead()
                else:
                    said = said or self._say_who_leads()
                    self._wait(LONGEST_WAIT_S)
        finally:
            self._changes.stop()
            self._lease.stop()
            connections.close_all()

    def stop(self) -> None:
        """Ends `run` after what is under way. May be called from a signal handler."""
        self._stopping = True
        self._news.put(None)
        if self._watcher is not None:
            self._watcher.stop()

    @staticmethod
    def _say_who_leads() -> bool:
        """Once that is known: whether it was said."""
        try:
            with database_errors():
                lease = selectors.lease()
        except StoreUnavailableError:
            return False
        if lease.is_current:
            logger.info("standing by", extra={"event": "standby", "leader": lease.holder})
        return lease.is_current

    def _wait(self, seconds: float) -> None:
        try:
            self._news.get(timeout=seconds)
        except queue.Empty:
            return

    def _lease_changed(self, held: bool) -> None:  # noqa: FBT001 - the one thing that a callback is told
        self._news.put(None)
        if not held and self._watcher is not None:
            self._watcher.stop()

    def _declarations_changed(self) -> None:
        watcher = self._watcher
        if watcher is None or (self._settling and self._settling.is_alive()):
            return  # who leads next will see it, and so will what is about to wake
        self._settling = threading.Timer(SETTLE_S, watcher.wake)
        self._settling.daemon = True
        self._settling.start()

    def _lead(self) -> None:
        logger.info("leading", extra={"event": "leading", "holder": self._lease.holder})
        leadership = Leadership(self._lease, prune=self._prune, force=self._force)
        self._watcher = leadership.watcher
        try:
            if not self._stopping and self._lease.is_held:
                leadership.run()
        finally:
            self._watcher = None
        if not self._stopping:
            logger.warning("no longer leading", extra={"event": "deposed", "holder": self._lease.holder})
