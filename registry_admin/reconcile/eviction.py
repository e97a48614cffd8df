"""Eviction: decides which instances have been critical for too long. Pure.

Consul's own deregistration takes 90 s where 30 s are configured, and knows no outages:
docs/decisions/0008-eviction.md and 0016-eviction-and-outages.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from registry_admin.backoff import ExponentialBackoff
from registry_admin.reconcile.outage import CALM_S, Group, GroupCount, GroupKind, Halt, Place, count_groups, next_halts

ROUNDS = 3  # in which an instance was seen critical before it is evicted
MAX_ROUND_S = 15.0  # what one interval between two rounds counts at most
ROUND_S = 10.0  # between two rounds while an instance's time runs
ANSWERING_ROUND_S = 60.0  # the same while it answers us, though its check fails
PROBE_LEAD_S = 10.0  # our own probe begins that long before an eviction is due
CONTENTION_FROM = 3  # evictions within an hour
HOLD = ExponentialBackoff(first_s=60.0, longest_s=600.0)
RELAPSE_HOLD = ExponentialBackoff(first_s=30.0, longest_s=480.0)
MAX_OUTPUT = 200
MAX_NAMES = 5  # of instances or groups in a text


@dataclass(frozen=True, kw_only=True)
class WatchedInstance:
    """An instance that eviction judges or counts: registered here or on another node, or evicted a short time ago.

    `is_critical`: its own check fails; `is_starting`: because it hasn't run yet. `evict_after_s` is None where it is
    never evicted, or not by us. `first_check_s`: seconds after which its check has run for certain. `evictions` counts
    those of the last hour. `answers`: result of our own probe, None while there is none; False where we can't probe.
    """

    place: Place
    service: str
    groups: tuple[Group, ...] = ()
    is_critical: bool = True
    is_starting: bool = False
    evict_after_s: float | None = None
    first_check_s: float = 0.0
    evictions: int = 0
    output: str = ""
    answers: bool | None = False

    @property
    def is_down(self) -> bool:
        """True if its check has run, and fails."""
        return self.is_critical and not self.is_starting


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Observed seconds for which an instance has been critical; `counted_s` and `rounds` since the last halt.

    `after_halt`: it was held by a halt, so it is due for a check of its own first.
    """

    critical_s: float = 0.0
    counted_s: float = 0.0
    rounds: int = 0
    is_starting: bool = False
    after_halt: bool = False

    def advanced(self, elapsed_s: float, *, held: bool) -> Clock:
        """Returns the clock one round later."""
        critical_s = self.critical_s + elapsed_s
        if held:
            return replace(self, critical_s=critical_s, counted_s=0.0, rounds=0, after_halt=True)
        return replace(self, critical_s=critical_s, counted_s=self.counted_s + elapsed_s, rounds=self.rounds + 1)


@dataclass(frozen=True, kw_only=True)
class EvictionState:
    """What one round hands to the next: clocks of critical instances, halts, and places that people have confirmed."""

    clocks: Mapping[Place, Clock] = field(default_factory=dict)
    halts: Mapping[Group, Halt] = field(default_factory=dict)
    confirmed: frozenset[Place] = frozenset()

    def next(self, instances: Iterable[WatchedInstance], *, elapsed_s: float) -> EvictionState:
        """Returns the state after a round that has seen these instances, `elapsed_s` observed seconds later."""
        instances = list(instances)
        elapsed_s = min(max(elapsed_s, 0.0), MAX_ROUND_S)
        down = {instance.place for instance in instances if instance.is_down}
        confirmed = self.confirmed & down
        halts = next_halts(self.halts, _count(instances, confirmed), elapsed_s=elapsed_s)
        state = replace(self, halts=halts, confirmed=confirmed)
        clocks = {
            instance.place: _next_clock(
                self.clocks.get(instance.place),
                instance,
                elapsed_s=elapsed_s,
                held=self.is_held(instance) or state.is_held(instance),
            )
            for instance in instances
            if instance.is_critical
        }
        return replace(state, clocks=clocks)

    def is_held(self, instance: WatchedInstance) -> bool:
        """Returns whether a halt keeps the instance from being evicted."""
        return instance.place not in self.confirmed and not self.halts.keys().isdisjoint(instance.groups)


@dataclass(frozen=True, kw_only=True)
class EvictionDecision:
    """Instances to evict, by place, with the reason; and the seconds until the next round is needed, if any.

    `probe`: instances that we ask ourselves before they are due. `withheld`: instances that would be evicted if their
    group weren't halted, by halted group. `contention`: remarks on instances, by place.
    """

    evict: Mapping[Place, str] = field(default_factory=dict)
    probe: frozenset[Place] = frozenset()
    next_in_s: float | None = None
    withheld: Mapping[Group, tuple[Place, ...]] = field(default_factory=dict)
    contention: Mapping[Place, str] = field(default_factory=dict)
    counts: Mapping[Group, GroupCount] = field(default_factory=dict)

    @cached_property
    def halted(self) -> str:
        """Reason why some instances aren't evicted now, else empty."""
        groups = sorted(self.withheld, key=lambda group: (list(GroupKind).index(group.kind), group.name))
        if not groups:
            return ""
        if groups[0].kind is GroupKind.DATACENTER:
            groups = groups[:1]
        counts = [f"{self.counts[group].down} of {self.counts[group].total} in {group}" for group in groups[:MAX_NAMES]]
        more = f" and {len(groups) - MAX_NAMES} more groups" if len(groups) > MAX_NAMES else ""
        return (
            f"{', '.join(counts)}{more} are down at once: an outage of the network or of Consul rather than of the "
            f"instances. They stay registered as critical until fewer than half as many are down for {CALM_S:.0f} s."
        )


def decide_evictions(state: EvictionState, instances: Iterable[WatchedInstance]) -> EvictionDecision:
    """Decides on the instances of the round that led to `state`."""
    ordered = sorted(instances, key=lambda instance: instance.place)
    judged = [_Judged(instance, state) for instance in ordered if instance.is_critical]
    judged = [one for one in judged if one.limit_s is not None]
    withheld: dict[Group, list[Place]] = {}
    for one in judged:
        if one.is_held and one.is_overdue:
            for group in one.instance.groups:
                if group in state.halts:
                    withheld.setdefault(group, []).append(one.instance.place)
    next_in_s = [one.next_in_s for one in judged if one.next_in_s is not None]
    next_in_s += [ROUND_S for halt in state.halts.values() if halt.calm_rounds]
    return EvictionDecision(
        evict={one.instance.place: one.reason for one in judged if one.is_due},
        probe=frozenset(one.instance.place for one in judged if one.needs_probe),
        next_in_s=min(next_in_s, default=None),
        withheld={group: tuple(places) for group, places in withheld.items()},
        contention={one.instance.place: one.remark for one in judged if one.remark},
        counts=_count(ordered, state.confirmed),
    )


class _Judged:
    """A critical instance with its clock, and what follows."""

    def __init__(self, instance: WatchedInstance, state: EvictionState) -> None:
        self.instance = instance
        self.clock = state.clocks.get(instance.place, Clock())
        self.is_held = state.is_held(instance)

    @cached_property
    def limit_s(self) -> float | None:
        """Seconds for which it may stay critical, or None for ever."""
        instance = self.instance
        if instance.evict_after_s is None:
            return None
        waits_for_check = self.clock.after_halt or instance.is_starting
        return max(
            instance.evict_after_s,
            eviction_hold_s(instance.evictions),
            instance.first_check_s if waits_for_check else 0.0,
        )

    @property
    def remaining_s(self) -> float:
        """Seconds until its time is over, below 0 after that."""
        return (self.limit_s or 0.0) - self.clock.counted_s

    @property
    def is_overdue(self) -> bool:
        """True if its time would be over without any halt."""
        return self.clock.critical_s >= (self.limit_s or 0.0)

    @property
    def is_due(self) -> bool:
        """True if it is to be evicted now."""
        is_over = not self.is_held and self.remaining_s <= 0 and self.clock.rounds >= ROUNDS
        return is_over and self.instance.answers is False

    @property
    def needs_probe(self) -> bool:
        """True if our own probe has to say soon whether it answers."""
        return not self.is_held and self.remaining_s <= PROBE_LEAD_S

    @property
    def next_in_s(self) -> float | None:
        """Seconds until another round is needed for it."""
        limit_s = self.limit_s or 0.0
        interval_s = min(ROUND_S, max(limit_s / ROUNDS, 0.5))
        if self.is_held:
            return None if self.is_overdue else min(interval_s, limit_s - self.clock.critical_s)
        if self.remaining_s > 0:
            return min(interval_s, self.remaining_s)
        if self.clock.rounds < ROUNDS:
            return min(interval_s, 1.0)
        return None if self.is_due else ANSWERING_ROUND_S if self.instance.answers else interval_s

    @property
    def reason(self) -> str:
        """The reason for its eviction."""
        output = " ".join(self.instance.output.split())[:MAX_OUTPUT]
        seconds = f"critical for {self.clock.critical_s:.0f} s, {format_duration(self.limit_s or 0)} allowed"
        return seconds + (f": {output}" if output else "")

    @property
    def remark(self) -> str:
        """A remark for people, if there is something to tell."""
        if eviction_hold_s(self.instance.evictions):
            return (
                f"reap fight: evicted {self.instance.evictions} times in the last hour, because something registers it "
                f"again though it doesn't answer; next after {format_duration(self.limit_s or 0)}"
            )
        if not self.is_held and self.remaining_s <= 0 and self.instance.answers:
            return "its check fails, but it answers Registry Admin, so it isn't evicted: look at the check"
        return ""


def _next_clock(clock: Clock | None, instance: WatchedInstance, *, elapsed_s: float, held: bool) -> Clock:
    """Returns the clock of a critical instance one round later; it starts anew when its first check has failed."""
    if clock is not None and clock.is_starting is instance.is_starting:
        return clock.advanced(elapsed_s, held=held)
    start = Clock(is_starting=instance.is_starting, after_halt=clock is not None and clock.after_halt)
    return start.advanced(0.0, held=held)


def _count(instances: Iterable[WatchedInstance], confirmed: frozenset[Place]) -> dict[Group, GroupCount]:
    """Returns the counts of each group: an instance whose check hasn't run yet proves nothing either way."""
    return count_groups((instance for instance in instances if not instance.is_starting), confirmed=confirmed)


def eviction_hold_s(evictions: int) -> float:
    """Returns the seconds until the next eviction of an instance evicted so often in the last hour."""
    return HOLD.pause_s(evictions - CONTENTION_FROM + 1) if evictions >= CONTENTION_FROM else 0.0


def return_hold_s(relapses: int) -> float:
    """Returns the seconds from an eviction until the next return, after so many relapses in a row."""
    return RELAPSE_HOLD.pause_s(relapses) if relapses else 0.0


def format_duration(seconds: float) -> str:
    """Returns `45 s` or `2 min`."""
    return f"{seconds:.0f} s" if seconds < 60 or seconds % 60 else f"{seconds / 60:.0f} min"
