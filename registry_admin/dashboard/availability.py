"""How available a service was: its changes of health, turned into a bar for each stretch of time. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

UP = frozenset({"passing", "warning"})  # Consul answers with warning ones too unless asked for passing only
PLANNED = "maintenance"
# Where a bar begins and how high it is, of 10: colour isn't all that tells them apart.
HEIGHTS = {"passing": (1, 9), "degraded": (3, 7), "critical": (0, 10), "maintenance": (2, 6), "no_data": (8, 2)}
UNSEEN = frozenset({"", "unknown"})  # it wasn't in Consul, or nobody knows


Change = tuple[datetime, str, str]  # when, before and after


class Stretch(NamedTuple):
    """A time in which an instance's health was the same; `health` is empty while it wasn't in Consul."""

    began: datetime
    ended: datetime
    health: str


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One bar. `state`: passing, degraded, critical, maintenance or no_data. `share`: of the known time, 0 to 1."""

    began: datetime
    ended: datetime
    state: str
    share: float | None

    @property
    def in_words(self) -> str:
        """`Nov 24, 10:00 to 10:16 UTC: 98 % up`"""
        said = percent(self.share) + " up" if self.share is not None else self.state.replace("_", " ")
        return f"{self.began:%b %d, %H:%M} to {self.ended:%H:%M} UTC: {said}"

    @property
    def top(self) -> int:
        """Where it begins, of 10."""
        return HEIGHTS[self.state][0]

    @property
    def height(self) -> int:
        """How high it is, of 10."""
        return HEIGHTS[self.state][1]


@dataclass(frozen=True, kw_only=True)
class Availability:
    """All bars of a service, and its share of the whole time: what its instances were up, of what is known of them."""

    buckets: tuple[Bucket, ...]
    share: float | None
    began: datetime
    ended: datetime

    @property
    def percent(self) -> str:
        """`99.95 %`; never rounded up to 100."""
        return "no data" if self.share is None else percent(self.share)

    @property
    def paths(self) -> list[tuple[str, str]]:
        """The bars as SVG paths, one for each state: a page of fifty services draws 1,500 of them."""
        drawn: dict[str, list[str]] = {}
        for number, bar in enumerate(self.buckets):
            top, height = HEIGHTS[bar.state]
            drawn.setdefault(bar.state, []).append(f"M{number} {top}h.75v{height}h-.75z")
        return [(state, "".join(parts)) for state, parts in drawn.items()]

    @property
    def in_words(self) -> str:
        """What the bars show, for those who don't see them."""
        if self.share is None:
            return "No data."
        worst = min((one for one in self.buckets if one.share is not None), key=lambda one: one.share or 0.0)
        said = f"{self.percent} available"
        if worst.share is not None and worst.share < 1:
            said += f"; worst {worst.began:%Y-%m-%d %H:%M} to {worst.ended:%H:%M} UTC: {percent(worst.share)}"
        unknown = sum(one.state == "no_data" for one in self.buckets)
        return f"{said}; no data for {unknown} of {len(self.buckets)} bars." if unknown else f"{said}."


def percent(share: float) -> str:
    """`99.9 %`"""
    floored = int(share * 10_000) / 100
    return f"{floored:g} %"


def stretches(
    changes: Sequence[tuple[datetime, str, str]],
    *,
    current: str,
    since: datetime | None,
    began: datetime,
    now: datetime,
) -> list[Stretch]:
    """An instance's health over time, from its changes (when, before, after), oldest first.

    `current` is what it is now, `since` when it was first seen: before that nothing is known of it.
    """
    if not changes:
        start = max(began, since or began)
        return [Stretch(start, now, current)] if start < now else []
    points = [began, *(at for at, _, _ in changes), now]
    healths = [changes[0][1], *(after for _, _, after in changes)]
    return [Stretch(a, b, health) for (a, b), health in zip(pairwise(points), healths, strict=True) if a < b]


def measure(
    instances: Iterable[Sequence[Stretch]],
    gaps: Iterable[tuple[datetime, datetime]],
    *,
    began: datetime,
    ended: datetime,
    buckets: int,
) -> Availability:
    """Bars of equal length from `began` to `ended`. What falls into a gap is not known, whatever the instances say.

    An instance that isn't in Consul counts as down only after it was evicted: one that left has gone on purpose.
    """
    size = (ended - began) / buckets
    edges = [began + size * number for number in range(buckets)] + [ended]
    up, known, planned = [0.0] * buckets, [0.0] * buckets, [0.0] * buckets
    blind = _merged(gaps)
    # Most instances of a service have lived alike: each life is looked at once.
    for stretch, times in Counter(one for instance in instances for one in instance).items():
        if stretch.health in UNSEEN:
            continue
        for a, b in _outside(stretch, blind):
            first = max(0, int((a - began) / size))
            for number in range(first, buckets):
                seconds = times * (min(b, edges[number + 1]) - max(a, edges[number])).total_seconds()
                if seconds <= 0:
                    if edges[number] >= b:
                        break
                    continue
                if stretch.health == PLANNED:
                    planned[number] += seconds
                    continue
                known[number] += seconds
                up[number] += seconds if stretch.health in UP else 0.0
    bars = tuple(
        _bar(edges[number], edges[number + 1], up[number], known[number], planned[number]) for number in range(buckets)
    )
    total = sum(known)
    return Availability(buckets=bars, share=min(1.0, sum(up) / total) if total else None, began=began, ended=ended)


def _bar(began: datetime, ended: datetime, up: float, known: float, planned: float) -> Bucket:
    if not known:
        return Bucket(began=began, ended=ended, state=PLANNED if planned else "no_data", share=None)
    share = min(1.0, up / known)
    state = "passing" if share >= 1 - 1e-9 else "critical" if share <= 1e-9 else "degraded"
    return Bucket(began=began, ended=ended, state=state, share=1.0 if state == "passing" else share)


def _merged(gaps: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    merged: list[tuple[datetime, datetime]] = []
    for began, ended in sorted(gaps):
        if merged and began <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(ended, merged[-1][1])
        else:
            merged.append((began, ended))
    return merged


def _outside(stretch: Stretch, blind: Sequence[tuple[datetime, datetime]]) -> Iterable[tuple[datetime, datetime]]:
    began = stretch.began
    for gap_began, gap_ended in blind:
        if gap_ended <= began:
            continue
        if gap_began >= stretch.ended:
            break
        if began < gap_began:
            yield began, gap_began
        began = max(began, gap_ended)
    if began < stretch.ended:
        yield began, stretch.ended


def window_of(now: datetime, length: timedelta) -> tuple[datetime, datetime]:
    """The last `length`, ending with the running minute: so that bars don't move with every look."""
    ended = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return ended - length, ended
