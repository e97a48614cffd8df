"""Housekeeping of the leader: finishes interrupted runs, closes abandoned ones and deletes old history."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from datetime import timedelta

from registry_admin.inventory.conf import conf
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.sync import runs
from registry_admin.inventory.watcher.event_log import EventLog

PRUNE_INTERVAL_S = 3600.0


class Housekeeper:
    """Works before each run; `holder` is the leader whose runs are not abandoned."""

    def __init__(self, holder: str, *, events: EventLog) -> None:
        self._holder = holder
        self._events = events
        self._unfinished: list[Callable[[], object]] = []
        self._pruned_at = -math.inf  # by the monotonic clock
        self._is_frozen = False

    def add_unfinished(self, finish_run: Callable[[], object]) -> None:
        """Queues a run for `work` to finish: the database went away before its row could be written."""
        self._unfinished.append(finish_run)

    def work(self) -> None:
        """Finishes queued runs; at first and then every hour, also closes abandoned runs and deletes old history.

        Raises DatabaseUnavailableError; what is not done then is done at the next call.
        """
        with database_errors():
            while self._unfinished:
                self._unfinished[-1]()
                self._unfinished.pop()
        now = time.monotonic()
        if now - self._pruned_at < PRUNE_INTERVAL_S:
            return
        with database_errors():
            abandoned = runs.abandon_runs(self._holder)
            deleted = runs.prune_history(timedelta(seconds=conf.history_retention_s))
        self._pruned_at = now
        self._events.log_housekeeping(abandoned=abandoned, deleted=deleted)

    def freeze_shared_objects(self) -> None:
        """Exempts all present objects from garbage collection, once: caches that every run shares are never garbage."""
        if not self._is_frozen:
            gc.collect()
            gc.freeze()
            self._is_frozen = True
