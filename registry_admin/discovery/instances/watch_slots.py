"""Limit on the connections that the watches of this process hold to one agent."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

BLOCKING_SLOTS = 24
SHORT_SLOTS = 8  # Consul allows an address 200 connections, those of all its processes: http_max_conns_per_client


class WatchSlots:
    """Places for requests: BLOCKING_SLOTS that wait at the agent for a change, and SHORT_SLOTS that don't."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Frees all places: in a forked child the threads that had taken some don't run."""
        self._blocking = threading.Semaphore(BLOCKING_SLOTS)
        self._short = threading.Semaphore(SHORT_SLOTS)

    @contextlib.contextmanager
    def try_blocking(self) -> Iterator[bool]:
        """Takes a place for a request that waits for a change; yields whether one was free."""
        semaphore = self._blocking
        is_taken = semaphore.acquire(blocking=False)
        try:
            yield is_taken
        finally:
            if is_taken:
                semaphore.release()

    @contextlib.contextmanager
    def short(self) -> Iterator[None]:
        """Waits for a place for a request that is answered at once."""
        with self._short:
            yield
