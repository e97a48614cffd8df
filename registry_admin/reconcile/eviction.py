"""Who has been critical for too long, because Consul itself takes 90 s where 30 s were asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

OUTAGE_SHARE = 0.5
OUTAGE_AT_LEAST = 3
FIGHT_FROM = 3  # evictions within an hour
FIRST_HOLD_S = 60.0
LONGEST_HOLD_S = 600.0
_SHOWN_OUTPUT = 200


@dataclass(frozen=True, kw_only=True)
class Critical:
    """An instance whose checks fail: since when (seconds ago), and after how many seconds it is to be taken out.

    `after_s` is None where it never is, or isn't ours to take out. `evictions`: how often it was in the last hour.
    """

    id: str
    service: str
    for_s: float
    after_s: float | None
    evictions: int = 0
    output: str = ""

    @property
    def limit_s(self) -> float | None:
        """How long it may stay critical, or None for ever."""
        return None if self.after_s is None else max(self.after_s, hold_s(self.evictions))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whom to take out and why, by instance ID; in how many seconds the next one is due, if any.

    `halted`: why nobody is taken out now, or nothing. `fights`: who is registered again and again though dead, by ID.
    """

    evict: Mapping[str, str] = field(default_factory=dict)
    next_in_s: float | None = None
    halted: str = ""
    fights: Mapping[str, str] = field(default_factory=dict)


def decide(critical: Iterable[Critical], *, instances: int, window_s: float) -> Verdict:
    """Judges all that is critical on our node, where there are `instances` in all.

    Where somebody's time is up, but more than half of them all (and more than three) turned critical within `window_s`
    seconds of each other, it is the network or Consul that fails, and nobody is taken out.
    """
    found = sorted(critical, key=lambda one: one.id)
    fights = {one.id: _fight(one) for one in found if one.after_s is not None and hold_s(one.evictions)}
    limits = [(one, one.limit_s) for one in found if one.limit_s is not None]
    due = {one.id: _reason(one, limit) for one, limit in limits if one.for_s >= limit}
    together = _most_within([one.for_s for one in found], window_s) if due else 0
    if together > OUTAGE_AT_LEAST and together > OUTAGE_SHARE * instances:
        halted = (
            f"{together} of {instances} instances turned critical within {words(window_s)}: an outage of the network "
            "or of Consul, not of the services. Nothing is evicted until fewer of them are critical."
        )
        return Verdict(halted=halted, fights=fights)
    return Verdict(
        evict=due,
        next_in_s=min((limit - one.for_s for one, limit in limits if one.for_s < limit), default=None),
        fights=fights,
    )


class Ages:
    """How long each instance has been critical. Once known, by a clock that only goes forward: the other may jump."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[datetime, float]] = {}  # since when, as was written down, and by the forward clock

    def seconds(self, since: Mapping[str, datetime], *, now: datetime, forward: float) -> dict[str, float]:
        """Of each, by ID; whoever is in `since` no more is forgotten. What is yet to come counts as now."""
        known = self._begun
        self._begun = {
            key: known[key]
            if key in known and known[key][0] == at
            else (at, forward - max(0.0, (now - at).total_seconds()))
            for key, at in since.items()
        }
        return {key: forward - begun for key, (_, begun) in self._begun.items()}


def hold_s(evictions: int) -> float:
    """How many seconds one that was evicted so often in the last hour waits, for its next eviction and its return."""
    if evictions < FIGHT_FROM:
        return 0.0
    return float(min(LONGEST_HOLD_S, FIRST_HOLD_S * 2 ** min(evictions - FIGHT_FROM, 16)))


def words(seconds: float) -> str:
    """`45 s`, `2 min`"""
    return f"{seconds:.0f} s" if seconds < 60 or seconds % 60 else f"{seconds / 60:.0f} min"


def _most_within(ages: Sequence[float], window_s: float) -> int:
    """The largest number of these that lie within `window_s` of each other."""
    ordered, most, first = sorted(ages), 0, 0
    for last, age in enumerate(ordered):
        while age - ordered[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def _reason(one: Critical, limit_s: float) -> str:
    said = " ".join(one.output.split())[:_SHOWN_OUTPUT]
    return f"critical for {one.for_s:.0f} s, {words(limit_s)} allowed" + (f": {said}" if said else "")


def _fight(one: Critical) -> str:
    return (
        f"reap fight: evicted {one.evictions} times in the last hour, because something registers it again though it "
        f"doesn't answer; next after {words(one.limit_s or 0)}"
    )
