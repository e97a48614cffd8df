"""Availability of a service over time, computed from its changes of health. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

UP = frozenset({"passing", "warning"})  # Consul answers with warning ones too unless asked for passing only
PLANNED = "maintenance"
# Top and height of a bar, of 10: bars differ by more than their colour.
HEIGHTS = {"passing": (1, 9), "degraded": (3, 7), "critical": (0, 10), "maintenance": (2, 6), "no_data": (8, 2)}
UNMEASURED = frozenset({"", "unknown"})  # not in Consul, or not known


Change = tuple[datetime, str, str]  # when, before and after


class HealthPeriod(NamedTuple):
    """A time in which an instance's health didn't change. `health` is empty while it wasn't in Consul."""

    start: datetime
    end: datetime
    health: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar. `state`: passing, degraded, critical, maintenance or no_data. `share`: of the known time, 0 to 1."""

    start: datetime
    end: datetime
    state: str
    share: float | None

    @property
    def description(self) -> str:
        """`Nov 24, 10:00 to 10:16 UTC: 98 % up`"""
        text = percent(self.share) + " up" if self.share is not None else self.state.replace("_", " ")
        return f"{self.start:%b %d, %H:%M} to {self.end:%H:%M} UTC: {text}"

    @property
    def top(self) -> int:
        """Top edge, of 10."""
        return HEIGHTS[self.state][0]

    @property
    def height(self) -> int:
        """Height, of 10."""
        return HEIGHTS[self.state][1]


@dataclass(frozen=True, kw_only=True)
class Availability:
    """The bars of a service. `share`: of the known time of its instances, the part in which they were up, 0 to 1."""

    bars: tuple[Bar, ...]
    share: float | None
    start: datetime
    end: datetime

    @property
    def percent(self) -> str:
        """`99.95 %`; never rounded up to 100."""
        return "no data" if self.share is None else percent(self.share)

    @property
    def paths(self) -> list[tuple[str, str]]:
        """The bars as SVG paths, one for each state: a page of fifty services draws 1,500 of them."""
        drawn: dict[str, list[str]] = {}
        for number, bar in enumerate(self.bars):
            top, height = HEIGHTS[bar.state]
            drawn.setdefault(bar.state, []).append(f"M{number} {top}h.75v{height}h-.75z")
        return [(state, "".join(parts)) for state, parts in drawn.items()]

    @property
    def description(self) -> str:
        """Text alternative of the bars."""
        if self.share is None:
            return "No data."
        worst = min((bar for bar in self.bars if bar.share is not None), key=lambda bar: bar.share or 0.0)
        text = f"{self.percent} available"
        if worst.share is not None and worst.share < 1:
            text += f"; worst {worst.start:%Y-%m-%d %H:%M} to {worst.end:%H:%M} UTC: {percent(worst.share)}"
        unknown = sum(bar.state == "no_data" for bar in self.bars)
        return f"{text}; no data for {unknown} of {len(self.bars)} bars." if unknown else f"{text}."


def percent(share: float) -> str:
    """`99.9 %`"""
    floored = int(share * 10_000) / 100
    return f"{floored:g} %"


def health_periods(
    changes: Sequence[tuple[datetime, str, str]],
    *,
    current: str,
    since: datetime | None,
    start: datetime,
    now: datetime,
) -> list[HealthPeriod]:
    """Returns an instance's health over time, from its changes, oldest first.

    `current` is its health now, `since` the time of its first observation.
    """
    if not changes:
        start = max(start, since or start)
        return [HealthPeriod(start, now, current)] if start < now else []
    points = [start, *(at for at, _, _ in changes), now]
    healths = [changes[0][1], *(after for _, _, after in changes)]
    return [HealthPeriod(a, b, health) for (a, b), health in zip(pairwise(points), healths, strict=True) if a < b]


def measure(
    instances: Iterable[Sequence[HealthPeriod]],
    gaps: Iterable[tuple[datetime, datetime]],
    *,
    start: datetime,
    end: datetime,
    bar_count: int,
) -> Availability:
    """Returns bars of equal length from `start` to `end`. Time within a gap counts as not known.

    An instance that isn't in Consul counts as down only after an eviction: otherwise it left on purpose.
    """
    size = (end - start) / bar_count
    edges = [start + size * number for number in range(bar_count)] + [end]
    up, known, planned = [0.0] * bar_count, [0.0] * bar_count, [0.0] * bar_count
    blind = _merged(gaps)
    # Most instances have the same periods: each distinct period is measured once.
    for period, times in Counter(bar for instance in instances for bar in instance).items():
        if period.health in UNMEASURED:
            continue
        for a, b in _outside(period, blind):
            first = max(0, int((a - start) / size))
            for number in range(first, bar_count):
                seconds = times * (min(b, edges[number + 1]) - max(a, edges[number])).total_seconds()
                if seconds <= 0:
                    if edges[number] >= b:
                        break
                    continue
                if period.health == PLANNED:
                    planned[number] += seconds
                    continue
                known[number] += seconds
                up[number] += seconds if period.health in UP else 0.0
    bars = tuple(
        _bar(edges[number], edges[number + 1], up[number], known[number], planned[number])
        for number in range(bar_count)
    )
    total = sum(known)
    return Availability(bars=bars, share=min(1.0, sum(up) / total) if total else None, start=start, end=end)


def _bar(start: datetime, end: datetime, up: float, known: float, planned: float) -> Bar:
    if not known:
        return Bar(start=start, end=end, state=PLANNED if planned else "no_data", share=None)
    share = min(1.0, up / known)
    state = "passing" if share >= 1 - 1e-9 else "critical" if share <= 1e-9 else "degraded"
    return Bar(start=start, end=end, state=state, share=1.0 if state == "passing" else share)


def _merged(gaps: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    merged: list[tuple[datetime, datetime]] = []
    for start, end in sorted(gaps):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _outside(period: HealthPeriod, blind: Sequence[tuple[datetime, datetime]]) -> Iterable[tuple[datetime, datetime]]:
    start = period.start
    for gap_start, gap_end in blind:
        if gap_end <= start:
            continue
        if gap_start >= period.end:
            break
        if start < gap_start:
            yield start, gap_start
        start = max(start, gap_end)
    if start < period.end:
        yield start, period.end


def window_of(now: datetime, length: timedelta) -> tuple[datetime, datetime]:
    """Returns the last `length`, ending with the current minute so that bars stay in place between polls."""
    end = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return end - length, end
