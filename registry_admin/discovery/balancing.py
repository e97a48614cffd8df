"""Which instance a call goes to."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from registry_admin.discovery.endpoint import Endpoint
from registry_admin.errors import InvalidValueError

_CLEARLY = 1.5  # a cost below 1/1.5 of another's is no accident
_DRAWS = 8
_GOLDEN = 0.618


class Group:
    """The endpoints that one kind of call may go to; made once, for many picks."""

    __slots__ = ("_bounds", "_total", "endpoints", "members", "outliers", "slots")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        """At least one endpoint."""
        self.endpoints = tuple(sorted(endpoints, key=lambda endpoint: (endpoint.instance.id, endpoint.instance.node)))
        self.members = frozenset(self.endpoints)
        self.outliers = self.endpoints[0].outliers
        weights = [endpoint.weight for endpoint in self.endpoints]
        unit = math.gcd(*weights)
        self._bounds = list(itertools.accumulate(weight // unit for weight in weights))
        self._total = self._bounds[-1]
        # A stride that shares no factor with the total visits every slot once a round, and near neighbours far apart.
        stride = next(
            step for step in itertools.count(max(1, int(self._total * _GOLDEN))) if math.gcd(step, self._total) == 1
        )
        self.slots = (stride, self._total)

    def at(self, share: float) -> Endpoint:
        """The endpoint at this share (from 0 to below 1) of all weights."""
        if self._total == len(self.endpoints):
            return self.endpoints[int(share * self._total)]
        return self.endpoints[bisect(self._bounds, share * self._total)]

    def usable(self, endpoint: Endpoint, tried: Collection[Endpoint], now: float, *, repeatable: bool) -> bool:
        """Whether a call may go there: not tried yet, and not left out (unless so many are that it makes no sense)."""
        if endpoint in tried:
            return False
        return endpoint.take(now, repeatable=repeatable) or self._half_is_ejected()

    def _half_is_ejected(self) -> bool:
        return 2 * len(self.members & self.outliers.ejected) > len(self.endpoints)


class Balancing(Protocol):
    """A way to choose. Shared by threads."""

    def pick(self, group: Group, *, tried: Collection[Endpoint], now: float, repeatable: bool) -> Endpoint | None:
        """One that isn't among `tried`, or None where all are. `repeatable`: the call may serve as a probe."""


class PowerOfTwo:
    """Of two different ones, drawn by weight, the second only if it is clearly cheaper: the healthy get their shares.

    The better of two is nearly as good as the best of all, and never sends everybody to the same one:
    M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.
    """

    def __init__(self, *, share: Callable[[], float] = random.random) -> None:
        self._share = share

    def pick(self, group: Group, *, tried: Collection[Endpoint], now: float, repeatable: bool) -> Endpoint | None:
        """See Balancing."""
        first, second = self._two(group, tried, now, repeatable=repeatable)
        if first is None or second is None or first.probing:
            return first
        if second.probing or first.cost(now) > _CLEARLY * second.cost(now):
            return second
        if now > first.ready_at:
            return first
        return first if self._share() < first.readiness(now) else second

    def _two(
        self, group: Group, tried: Collection[Endpoint], now: float, *, repeatable: bool
    ) -> tuple[Endpoint | None, Endpoint | None]:
        if len(group.endpoints) > 1 and not tried and not group.outliers.ejected:  # nearly always
            first = group.at(self._share())
            for _ in range(_DRAWS):
                second = group.at(self._share())
                if second is not first:
                    return first, second
            number = int(self._share() * len(group.endpoints))  # one outweighs all others, so any of those will do
            second = group.endpoints[number]
            return first, second if second is not first else group.endpoints[number - 1]
        one = self._draw(group, tried, now, repeatable=repeatable) or _one_of(_untried(group, tried), self._share())
        if one is None or one.probing:
            return one, None
        return one, self._draw(group, (*tried, one), now, repeatable=repeatable)

    def _draw(self, group: Group, tried: Collection[Endpoint], now: float, *, repeatable: bool) -> Endpoint | None:
        for _ in range(_DRAWS):
            endpoint = group.at(self._share())
            if group.usable(endpoint, tried, now, repeatable=repeatable):
                return endpoint
        return _usable(group, tried, now, self._share(), repeatable=repeatable)


class InTurn:
    """Round robin by weight, with one counter per service. Needs no lock: `next` and `setdefault` are atomic."""

    def __init__(self) -> None:
        self._turns: dict[str, itertools.count[int]] = {}

    def pick(self, group: Group, *, tried: Collection[Endpoint], now: float, repeatable: bool) -> Endpoint | None:
        """See Balancing."""
        turns = self._turns.setdefault(group.endpoints[0].instance.service, itertools.count())
        stride, total = group.slots
        for _ in range(len(group.endpoints)):
            endpoint = group.at((next(turns) * stride % total + 0.5) / total)
            if group.usable(endpoint, tried, now, repeatable=repeatable):
                return endpoint
        return _any(group, tried, now, 0.0, repeatable=repeatable)


class Random:
    """By weight alone."""

    def __init__(self, *, share: Callable[[], float] = random.random) -> None:
        self._share = share

    def pick(self, group: Group, *, tried: Collection[Endpoint], now: float, repeatable: bool) -> Endpoint | None:
        """See Balancing."""
        for _ in range(_DRAWS):
            endpoint = group.at(self._share())
            if group.usable(endpoint, tried, now, repeatable=repeatable):
                return endpoint
        return _any(group, tried, now, self._share(), repeatable=repeatable)


def _any(group: Group, tried: Collection[Endpoint], now: float, share: float, *, repeatable: bool) -> Endpoint | None:
    """One of those that are usable, else of those that weren't tried."""
    return _usable(group, tried, now, share, repeatable=repeatable) or _one_of(_untried(group, tried), share)


def _usable(
    group: Group, tried: Collection[Endpoint], now: float, share: float, *, repeatable: bool
) -> Endpoint | None:
    """When luck was against it: one that is usable, or None where none is."""
    untried = _untried(group, tried)
    one = _one_of([endpoint for endpoint in untried if not endpoint.ejected_until], share)
    return one or next((endpoint for endpoint in untried if endpoint.take(now, repeatable=repeatable)), None)


def _untried(group: Group, tried: Collection[Endpoint]) -> list[Endpoint]:
    return [endpoint for endpoint in group.endpoints if endpoint not in tried]


def _one_of(endpoints: Sequence[Endpoint], share: float) -> Endpoint | None:
    return endpoints[int(share * len(endpoints))] if endpoints else None


_KINDS: dict[str, Callable[[], Balancing]] = {"power-of-two": PowerOfTwo, "round-robin": InTurn, "random": Random}


def named(name: str) -> Balancing:
    """The balancing of this name; raises InvalidValueError."""
    if name not in _KINDS:
        raise InvalidValueError("balancing", name, f"give one of {', '.join(_KINDS)}")
    return _KINDS[name]()
