"""The process behind `sync_registry --watch`: stands by until it holds the lease, then leads."""

from __future__ import annotations

import logging
import queue
import threading

from django.db import connections

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory import selectors
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.watcher.declaration_listener import DeclarationListener
from registry_admin.inventory.watcher.leader import Leader
from registry_admin.inventory.watcher.lease import LeaseKeeper

logger = logging.getLogger(__name__)

SETTLE_S = 0.2  # the process that saves a declaration also syncs it: give it the time to do so
MAX_WAIT_S = 0.5  # a signal handler runs only when the main thread wakes


class Controller:
    """Leads while it holds the lease, stands by otherwise, and releases the lease at the end."""

    def __init__(self, *, prune: bool = True) -> None:
        self._prune = prune
        self._lease = LeaseKeeper(on_change=self._on_lease_change)
        self._listener = DeclarationListener(self._on_declaration_change, on_lease_released=self._lease.retry_now)
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._leader: Leader | None = None
        self._settle_timer: threading.Timer | None = None

    def run(self) -> None:
        """Runs until `stop` is called."""
        self._lease.start()
        self._listener.start()
        try:
            is_standby_logged = False
            while not self._stopping:
                if self._lease.is_leader:
                    is_standby_logged = False
                    self._lead()
                else:
                    is_standby_logged = is_standby_logged or self._log_standby()
                    self._wait(MAX_WAIT_S)
        finally:
            self._listener.stop()
            self._lease.stop()
            connections.close_all()

    def stop(self) -> None:
        """Ends `run` after the current run. May be called from a signal handler."""
        self._stopping = True
        self._wakeups.put(None)
        if self._leader is not None:
            self._leader.stop()

    @property
    def is_leading(self) -> bool:
        """True while this process holds the lease."""
        return self._lease.is_leader

    @property
    def last_run_at(self) -> float:
        """Time of the last run that read all of Consul, in seconds since the epoch; 0 while standing by."""
        leader = self._leader
        return leader.last_run_at if leader else 0.0

    @staticmethod
    def _log_standby() -> bool:
        """Logs which watcher leads; returns whether that is known."""
        try:
            with database_errors():
                lease = selectors.lease_status()
        except DatabaseUnavailableError:
            return False
        if lease.is_current:
            logger.info("standing by", extra={"event": "standby", "leader": lease.holder})
        return lease.is_current

    def _wait(self, seconds: float) -> None:
        try:
            self._wakeups.get(timeout=seconds)
        except queue.Empty:
            return

    def _on_lease_change(self, is_leader: bool) -> None:  # noqa: FBT001 - a callback with one argument
        self._wakeups.put(None)
        if not is_leader and self._leader is not None:
            self._leader.stop()

    def _on_declaration_change(self) -> None:
        leader = self._leader
        if leader is None or (self._settle_timer and self._settle_timer.is_alive()):
            return  # the first run of a new leader reads all declarations, as does the one that is about to start
        self._settle_timer = threading.Timer(SETTLE_S, leader.wake)
        self._settle_timer.daemon = True
        self._settle_timer.start()

    def _lead(self) -> None:
        logger.info("leading", extra={"event": "leading", "holder": self._lease.holder})
        leader = self._leader = Leader(self._lease, prune=self._prune)
        try:
            if not self._stopping and self._lease.is_leader:
                leader.run()
        finally:
            self._leader = None
        if not self._stopping:
            logger.warning("no longer leading", extra={"event": "deposed", "holder": self._lease.holder})
