"""Retry budget: limits retries to a share of the calls, so that retries don't make an outage worse."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

SHARE = 0.2  # of the calls
RESERVE = 10.0  # retries that are allowed beside it, for a service that is seldom called
WINDOW_S = 10.0  # a call or a retry fades by 1/e in this time


class RetryBudget:
    """Allows retries for a fifth of the calls, plus ten, both of about the last ten seconds. Shared by threads."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """Starts with no calls and no retries. `clock` gives seconds, and is read only here."""
        self._lock = threading.Lock()
        self._decayed_at = clock()
        self._calls = 0.0
        self._retries = 0.0

    def record_call(self, now: float) -> None:
        """Counts a call that begins."""
        with self._lock:
            self._decay(now)
            self._calls += 1

    def try_retry(self, now: float) -> bool:
        """Returns whether a retry is allowed, and counts it if so."""
        with self._lock:
            self._decay(now)
            if self._retries + 1 > SHARE * self._calls + RESERVE:
                return False
            self._retries += 1
            return True

    def _decay(self, now: float) -> None:
        if now > self._decayed_at:
            decay = math.exp((self._decayed_at - now) / WINDOW_S)
            self._calls *= decay
            self._retries *= decay
            self._decayed_at = now
