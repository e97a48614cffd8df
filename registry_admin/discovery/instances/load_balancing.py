"""Load balancing: picks the instance that a call goes to."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from registry_admin.discovery.instances.outlier_detection import Endpoint
from registry_admin.errors import InvalidValueError

_SIGNIFICANT_RATIO = 1.5  # between two costs; less is taken for noise
_DRAWS = 8
_GOLDEN_RATIO = 0.618


class InstanceGroup:
    """Endpoints that calls of one kind may go to, prepared for many picks."""

    __slots__ = (
        "_bounds",
        "_is_even",
        "_total_weight",
        "endpoint_set",
        "endpoints",
        "outlier_detector",
        "round_robin_slots",
    )

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        """Makes a group of at least one endpoint, all of the same service."""
        self.endpoints = tuple(sorted(endpoints, key=lambda endpoint: (endpoint.instance.id, endpoint.instance.node)))
        self.endpoint_set = frozenset(self.endpoints)
        self.outlier_detector = self.endpoints[0].outlier_detector
        weights = [endpoint.weight for endpoint in self.endpoints]
        unit = math.gcd(*weights)
        self._bounds = list(itertools.accumulate(weight // unit for weight in weights))
        self._total_weight = self._bounds[-1]
        self._is_even = self._total_weight == len(self.endpoints)
        # A stride that shares no factor with the total visits every slot once a round, and near neighbours far apart.
        first_stride = max(1, int(self._total_weight * _GOLDEN_RATIO))
        stride = next(step for step in itertools.count(first_stride) if math.gcd(step, self._total_weight) == 1)
        self.round_robin_slots = (stride, self._total_weight)

    def endpoint_at(self, share: float) -> Endpoint:
        """Returns the endpoint at this share of the total weight, from 0 to below 1."""
        if self._is_even:
            return self.endpoints[int(share * self._total_weight)]
        return self.endpoints[bisect(self._bounds, share * self._total_weight)]

    def admit(self, endpoint: Endpoint, tried: Collection[Endpoint], now: float, *, repeatable: bool) -> bool:
        """Returns whether a call may go to `endpoint`: not tried yet, and not ejected.

        Ejections are ignored while more than half of the group is ejected: the fault is then likely to be elsewhere.
        """
        if endpoint in tried:
            return False
        return endpoint.admit(now, repeatable=repeatable) or self._half_is_ejected()

    def untried(self, tried: Collection[Endpoint]) -> list[Endpoint]:
        """Returns the endpoints that are not in `tried`."""
        return [endpoint for endpoint in self.endpoints if endpoint not in tried]

    def _half_is_ejected(self) -> bool:
        return 2 * len(self.endpoint_set & self.outlier_detector.ejected) > len(self.endpoints)


class LoadBalancer(Protocol):
    """A load balancing algorithm. Safe to share between threads."""

    def pick(
        self, group: InstanceGroup, *, tried: Collection[Endpoint], now: float, repeatable: bool
    ) -> Endpoint | None:
        """Returns an endpoint that is not in `tried`, or None if there is none left.

        A `repeatable` call may serve as the probe of an ejected endpoint.
        """


class PowerOfTwo:
    """Draws two endpoints by weight and picks the first, unless the second is clearly cheaper.

    The better of two is nearly as good as the best of all, and callers don't all choose the same endpoint:
    M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.
    """

    def __init__(self, *, random_share: Callable[[], float] = random.random) -> None:
        self._random_share = random_share

    def pick(
        self, group: InstanceGroup, *, tried: Collection[Endpoint], now: float, repeatable: bool
    ) -> Endpoint | None:
        """See LoadBalancer."""
        first, second = self._draw_two(group, tried, now, repeatable=repeatable)
        if first is None or second is None or first.probing:
            return first
        if second.probing or first.cost(now) > _SIGNIFICANT_RATIO * second.cost(now):
            return second
        if now > first.slow_start_until:
            return first
        return first if self._random_share() < first.slow_start_share(now) else second

    def _draw_two(
        self, group: InstanceGroup, tried: Collection[Endpoint], now: float, *, repeatable: bool
    ) -> tuple[Endpoint | None, Endpoint | None]:
        if len(group.endpoints) > 1 and not tried and not group.outlier_detector.ejected:  # nearly always
            draw, share = group.endpoint_at, self._random_share
            first = draw(share())
            for _ in range(_DRAWS):
                second = draw(share())
                if second is not first:
                    return first, second
            number = int(self._random_share() * len(group.endpoints))  # the first outweighs all others
            second = group.endpoints[number]
            return first, second if second is not first else group.endpoints[number - 1]
        if len(group.endpoints) == 1:
            return None if tried else group.endpoints[0], None
        endpoint = self._draw(group, tried, now, repeatable=repeatable)
        endpoint = endpoint or _endpoint_at(group.untried(tried), self._random_share())
        if endpoint is None or endpoint.probing:
            return endpoint, None
        return endpoint, self._draw(group, (*tried, endpoint), now, repeatable=repeatable)

    def _draw(
        self, group: InstanceGroup, tried: Collection[Endpoint], now: float, *, repeatable: bool
    ) -> Endpoint | None:
        for _ in range(_DRAWS):
            endpoint = group.endpoint_at(self._random_share())
            if group.admit(endpoint, tried, now, repeatable=repeatable):
                return endpoint
        return _pick_admitted(group, tried, now, self._random_share(), repeatable=repeatable)


class RoundRobin:
    """Takes turns by weight, with one counter per service. Needs no lock: `next` and `setdefault` are atomic."""

    def __init__(self) -> None:
        self._turns: dict[str, itertools.count[int]] = {}

    def pick(
        self, group: InstanceGroup, *, tried: Collection[Endpoint], now: float, repeatable: bool
    ) -> Endpoint | None:
        """See LoadBalancer."""
        turns = self._turns.setdefault(group.endpoints[0].instance.service, itertools.count())
        stride, total = group.round_robin_slots
        for _ in range(len(group.endpoints)):
            endpoint = group.endpoint_at((next(turns) * stride % total + 0.5) / total)
            if group.admit(endpoint, tried, now, repeatable=repeatable):
                return endpoint
        return _pick_untried(group, tried, now, 0.0, repeatable=repeatable)


class WeightedRandom:
    """Draws one endpoint by weight."""

    def __init__(self, *, random_share: Callable[[], float] = random.random) -> None:
        self._random_share = random_share

    def pick(
        self, group: InstanceGroup, *, tried: Collection[Endpoint], now: float, repeatable: bool
    ) -> Endpoint | None:
        """See LoadBalancer."""
        for _ in range(_DRAWS):
            endpoint = group.endpoint_at(self._random_share())
            if group.admit(endpoint, tried, now, repeatable=repeatable):
                return endpoint
        return _pick_untried(group, tried, now, self._random_share(), repeatable=repeatable)


def _pick_untried(
    group: InstanceGroup, tried: Collection[Endpoint], now: float, share: float, *, repeatable: bool
) -> Endpoint | None:
    """Returns an admitted endpoint, else any that wasn't tried, else None."""
    return _pick_admitted(group, tried, now, share, repeatable=repeatable) or _endpoint_at(group.untried(tried), share)


def _pick_admitted(
    group: InstanceGroup, tried: Collection[Endpoint], now: float, share: float, *, repeatable: bool
) -> Endpoint | None:
    """Returns an admitted endpoint by looking at all of them, or None. For when the draws have found none."""
    untried = group.untried(tried)
    endpoint = _endpoint_at([endpoint for endpoint in untried if not endpoint.ejected_until], share)
    return endpoint or next((endpoint for endpoint in untried if endpoint.admit(now, repeatable=repeatable)), None)


def _endpoint_at(endpoints: Sequence[Endpoint], share: float) -> Endpoint | None:
    return endpoints[int(share * len(endpoints))] if endpoints else None


_LOAD_BALANCERS: dict[str, Callable[[], LoadBalancer]] = {
    "power-of-two": PowerOfTwo,
    "round-robin": RoundRobin,
    "random": WeightedRandom,
}


def load_balancer(name: str) -> LoadBalancer:
    """Returns a new load balancer of this name; raises InvalidValueError for an unknown name."""
    if name not in _LOAD_BALANCERS:
        raise InvalidValueError("balancing", name, f"give one of {', '.join(_LOAD_BALANCERS)}")
    return _LOAD_BALANCERS[name]()
