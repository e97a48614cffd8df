"""Outages: decides in which groups of instances so many fail together that none of them is evicted. Pure.

The numbers, and what they mean for small inventories: docs/decisions/0016-eviction-and-outages.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

DATACENTER_AT_LEAST = 3
DATACENTER_SHARE = 0.2
GROUP_AT_LEAST = 2
CALM_S = 60.0
CALM_ROUNDS = 3

Place = tuple[str, ...]  # what tells an instance in Consul apart


class GroupKind(StrEnum):
    """Kinds of group in which an outage shows."""

    DATACENTER = "datacenter"
    NODE = "node"
    SERVICE = "service"


class Group(NamedTuple):
    """A group of instances that may fail together. The name is in lower case, as Consul compares it."""

    kind: GroupKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


class GroupMember(Protocol):
    """What is known of an instance that is counted."""

    @property
    def place(self) -> Place:
        """Where it is, and its ID."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that it counts in."""

    @property
    def is_down(self) -> bool:
        """True if its check fails, or if it was evicted a short time ago."""


@dataclass(frozen=True, kw_only=True)
class Halt:
    """A halt of evictions in one group: the seconds and the rounds for which the group has been calm by now."""

    calm_s: float = 0.0
    calm_rounds: int = 0

    @property
    def is_over(self) -> bool:
        """True if the group has been calm for long enough."""
        return self.calm_s >= CALM_S and self.calm_rounds >= CALM_ROUNDS


class GroupCount(NamedTuple):
    """Numbers of a group's instances: those that are down, and all."""

    down: int
    total: int

    def is_disturbed(self, kind: GroupKind) -> bool:
        """Returns whether so many are down that the cause isn't in the instances."""
        return self.down >= _threshold(kind, self.total)

    def is_calm(self, kind: GroupKind) -> bool:
        """Returns whether fewer than half of those are down. A single one never is an outage."""
        return self.down <= 1 or 2 * self.down < _threshold(kind, self.total)


def count_groups(members: Iterable[GroupMember], *, confirmed: Collection[Place] = ()) -> dict[Group, GroupCount]:
    """Returns the counts of each group, without the `confirmed` instances: people have said that these are dead."""
    counts: dict[Group, GroupCount] = {}
    for member in members:
        if member.place not in confirmed:
            for group in member.groups:
                down, total = counts.get(group, (0, 0))
                counts[group] = GroupCount(down + member.is_down, total + 1)
    return counts


def next_halts(
    halts: Mapping[Group, Halt], counts: Mapping[Group, GroupCount], *, elapsed_s: float
) -> dict[Group, Halt]:
    """Returns the halts after another round, `elapsed_s` observed seconds after the last one.

    A halt begins when its group is disturbed, and ends after 60 s and three rounds in which the group was calm.
    """
    following: dict[Group, Halt] = {}
    for group in halts.keys() | counts.keys():
        count, halt = counts.get(group, GroupCount(0, 0)), halts.get(group)
        if count.is_disturbed(group.kind):
            following[group] = Halt()
        elif halt is not None and not (halt := _next_halt(halt, group, count, elapsed_s)).is_over:
            following[group] = halt
    return following


def _next_halt(halt: Halt, group: Group, count: GroupCount, elapsed_s: float) -> Halt:
    if not count.is_calm(group.kind):
        return Halt()
    calm_s = halt.calm_s + elapsed_s if halt.calm_rounds else 0.0
    return Halt(calm_s=calm_s, calm_rounds=halt.calm_rounds + 1)


def _threshold(kind: GroupKind, total: int) -> float:
    if kind is GroupKind.DATACENTER:
        return max(DATACENTER_AT_LEAST, math.ceil(DATACENTER_SHARE * total))
    return total if total >= GROUP_AT_LEAST else math.inf
