"""Response times of one service, to tell a response that is later than almost all before it."""

from __future__ import annotations

from math import log

MIN_RESPONSES = 20  # fewer say nothing about what is late
LATE_SHARE = 0.01  # of the responses took longer
_FIRST_S, _GROWTH, _BUCKETS = 0.001, 1.25, 60  # bounds from 1 ms to ten minutes, each a quarter above the one before
_SCALE = 1 / log(_GROWTH)
_RECALCULATE_EVERY = 20
_MOST = 2_000  # responses; then the old ones count half


class ResponseTimes:
    """Histogram of a service's response times, in which older ones count less and less.

    Threads share it without a lock: a count that gets lost in a race changes nothing.
    """

    __slots__ = ("_counts", "_late_s", "_total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0
        self._late_s: float | None = None

    @property
    def late_s(self) -> float | None:
        """Seconds within which 99 % of the responses came, or None while there are too few of them."""
        return self._late_s

    def record(self, seconds: float) -> None:
        """Counts a response that came after so many seconds."""
        bucket = int(log(seconds / _FIRST_S) * _SCALE) + 1 if seconds > _FIRST_S else 0
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self._total += 1
        if self._total % _RECALCULATE_EVERY == 0:
            self._recalculate()

    def _recalculate(self) -> None:
        if self._total >= _MOST:
            self._counts = [count // 2 for count in self._counts]
            self._total = sum(self._counts) // _RECALCULATE_EVERY * _RECALCULATE_EVERY
        later, bucket = 0, _BUCKETS - 1
        allowed = LATE_SHARE * sum(self._counts)
        while bucket and later + self._counts[bucket] <= allowed:
            later += self._counts[bucket]
            bucket -= 1
        if self._total >= MIN_RESPONSES:
            self._late_s = _FIRST_S * _GROWTH**bucket
