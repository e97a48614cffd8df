"""Back-off of single items: each failed item is tried again by itself, later each time. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from registry_admin.backoff import ExponentialBackoff

CONTENTION_FROM = 30  # repairs within CONTENTION_WITHIN_S
CONTENTION_WITHIN_S = 600.0
HOLD = ExponentialBackoff(first_s=10.0, longest_s=300.0)


class ContentionTracker:
    """Tracks instances that are repaired again and again, because somebody else keeps changing them.

    From the 30th repair within ten minutes on, each one comes later. `now` is as for ItemBackoff.
    """

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def record_repair(self, instance_id: str, now: float) -> None:
        """Records that the instance was repaired."""
        self._times[instance_id] = [*self._recent(instance_id, now), now]

    def wait_s(self, instance_id: str, now: float) -> float:
        """Returns the seconds until it may be repaired again; 0 for at once."""
        times = self._recent(instance_id, now)
        return max(0.0, times[-1] + self._hold_s(len(times)) - now) if times else 0.0

    def messages(self, now: float) -> dict[str, str]:
        """Returns a text for each instance that is held back, by ID, and forgets those without recent repairs."""
        self._times = {key: times for key in self._times if (times := self._recent(key, now))}
        return {
            key: f"edit war: put right {len(times)} times within 10 min, because somebody changes it again and again; "
            f"next after {self._hold_s(len(times)):.0f} s"
            for key, times in self._times.items()
            if len(times) >= CONTENTION_FROM
        }

    def _recent(self, instance_id: str, now: float) -> list[float]:
        return [at for at in self._times.get(instance_id, ()) if now - at < CONTENTION_WITHIN_S]

    @staticmethod
    def _hold_s(times: int) -> float:
        return HOLD.pause_s(times - CONTENTION_FROM + 1) if times >= CONTENTION_FROM else 0.0


@dataclass(frozen=True)
class _Failure:
    digest: str
    times: int
    again_at: float


class ItemBackoff:
    """Remembers failed items. `now` is any clock in seconds that only goes forward; `digest` identifies the attempt.

    Pauses double from `first_s` to `longest_s`, each with jitter of one half. An item with another digest than the one
    that failed is new, and due at once.
    """

    def __init__(
        self, *, first_s: float = 1.0, longest_s: float = 300.0, random_share: Callable[[], float] = random.random
    ) -> None:
        self._pauses = ExponentialBackoff(first_s=first_s, longest_s=longest_s, jitter=0.5)
        self._random_share = random_share
        self._failures: dict[str, _Failure] = {}

    def failed(self, instance_id: str, digest: str, now: float) -> float:
        """Records a failure, and returns the seconds until the item is due again."""
        last = self._failures.get(instance_id)
        times = last.times + 1 if last and last.digest == digest else 1
        pause = self._pauses.pause_s(times, self._random_share())
        self._failures[instance_id] = _Failure(digest, times, now + pause)
        return pause

    def succeeded(self, instance_id: str) -> None:
        """Forgets the item's failures."""
        self._failures.pop(instance_id, None)

    def is_due(self, instance_id: str, digest: str, now: float) -> bool:
        """Returns whether the item may be tried now."""
        last = self._failures.get(instance_id)
        return last is None or last.digest != digest or last.again_at <= now

    def next_in_s(self, now: float) -> float | None:
        """Returns the seconds until the next item becomes due, or None. Items that are due already were tried."""
        return min(
            (failure.again_at - now for failure in self._failures.values() if failure.again_at > now), default=None
        )

    def keep_only(self, instance_ids: Collection[str]) -> None:
        """Forgets all other items."""
        self._failures = {key: failure for key, failure in self._failures.items() if key in instance_ids}
