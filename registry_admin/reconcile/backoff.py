"""When to try again what failed: later each time, and each item for itself, so that none holds up the others. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

WAR_FROM = 30  # repairs within WAR_WITHIN_S
WAR_WITHIN_S = 600.0
FIRST_TRUCE_S = 10.0
LONGEST_TRUCE_S = 300.0


class Repairs:
    """Who is put right again and again, because somebody else keeps changing it: later each time from the 30th on.

    Only what has come within the last ten minutes counts. `now` is as for Backoff.
    """

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def note(self, instance_id: str, now: float) -> None:
        """It has been put right."""
        self._times[instance_id] = [*self._recent(instance_id, now), now]

    def wait_s(self, instance_id: str, now: float) -> float:
        """Seconds until it may be put right once more; 0 where it may be at once."""
        times = self._recent(instance_id, now)
        return max(0.0, times[-1] + self._truce_s(len(times)) - now) if times else 0.0

    def texts(self, now: float) -> dict[str, str]:
        """What to say of each that is being slowed down, by ID. Forgets the others whose time is over."""
        self._times = {key: times for key in self._times if (times := self._recent(key, now))}
        return {
            key: f"edit war: put right {len(times)} times within 10 min, because somebody changes it again and again; "
            f"next after {self._truce_s(len(times)):.0f} s"
            for key, times in self._times.items()
            if len(times) >= WAR_FROM
        }

    def _recent(self, instance_id: str, now: float) -> list[float]:
        return [at for at in self._times.get(instance_id, ()) if now - at < WAR_WITHIN_S]

    @staticmethod
    def _truce_s(times: int) -> float:
        if times < WAR_FROM:
            return 0.0
        return float(min(LONGEST_TRUCE_S, FIRST_TRUCE_S * 2 ** min(times - WAR_FROM, 16)))


@dataclass(frozen=True)
class _Failure:
    digest: str
    times: int
    again_at: float


class Backoff:
    """Remembers what failed. `now` is any clock in seconds that only goes forward; `digest` stands for what was tried.

    The pauses double from `first_s` to `longest_s`, each between half and whole of that. What has another digest than
    what failed is something new, and due at once.
    """

    def __init__(
        self, *, first_s: float = 1.0, longest_s: float = 300.0, random_share: Callable[[], float] = random.random
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._random_share = random_share
        self._failures: dict[str, _Failure] = {}

    def failed(self, instance_id: str, digest: str, now: float) -> float:
        """It has been tried in vain; returns the seconds until it is due again."""
        last = self._failures.get(instance_id)
        times = min(last.times + 1, 32) if last and last.digest == digest else 1
        pause = min(self._longest_s, self._first_s * 2.0 ** (times - 1)) * (0.5 + self._random_share() / 2)
        self._failures[instance_id] = _Failure(digest, times, now + pause)
        return pause

    def succeeded(self, instance_id: str) -> None:
        """It went well: its next failure is a first one."""
        self._failures.pop(instance_id, None)

    def is_due(self, instance_id: str, digest: str, now: float) -> bool:
        """Whether it may be tried now."""
        last = self._failures.get(instance_id)
        return last is None or last.digest != digest or last.again_at <= now

    def next_in_s(self, now: float) -> float | None:
        """Seconds until the next one becomes due, or None. What is due already has had its chance in this pass."""
        return min((one.again_at - now for one in self._failures.values() if one.again_at > now), default=None)

    def keep_only(self, instance_ids: Collection[str]) -> None:
        """Forgets what there is nothing to do for any more."""
        self._failures = {key: one for key, one in self._failures.items() if key in instance_ids}
