"""How much may be tried again, so that an outage isn't made worse by those who suffer from it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

SHARE = 0.2  # of the calls
RESERVE = 10.0  # so that a service that is seldom called can be tried again too
WINDOW_S = 10.0  # how long a call or a retry counts: it fades by 1/e in this time


class RetryBudget:
    """Retries stay below a fifth of the calls, plus ten, both of about the last ten seconds. Shared by threads."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._at = clock()
        self._calls = 0.0
        self._retries = 0.0

    def call(self, now: float) -> None:
        """A call begins."""
        with self._lock:
            self._fade(now)
            self._calls += 1

    def try_retry(self, now: float) -> bool:
        """Whether one more attempt may be made; if so, it counts."""
        with self._lock:
            self._fade(now)
            if self._retries + 1 > SHARE * self._calls + RESERVE:
                return False
            self._retries += 1
            return True

    def _fade(self, now: float) -> None:
        if now > self._at:
            kept = math.exp((self._at - now) / WINDOW_S)
            self._calls *= kept
            self._retries *= kept
            self._at = now
