"""Which instance a call goes to: in turn, more often where Consul's weight is higher."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from registry_admin.consul.types import ServiceInstance

_GOLDEN = 0.618


class RoundRobin:
    """Takes turns, with one counter per service. Needs no lock: `next` and `setdefault` are atomic."""

    def __init__(self) -> None:
        self._turns: dict[str, itertools.count[int]] = {}

    def pick(self, candidates: Sequence[ServiceInstance]) -> ServiceInstance:
        """One of `candidates`, all of one service and at least one."""
        turns = self._turns.setdefault(candidates[0].service, itertools.count())
        return by_turn(candidates, next(turns))


def by_turn(candidates: Sequence[ServiceInstance], turn: int) -> ServiceInstance:
    """The instance for this turn: each as often as its weight says, well mixed, whatever the order of `candidates`."""
    ordered = sorted(candidates, key=lambda instance: (instance.id, instance.node))
    weights = [max(1, instance.weight) for instance in ordered]
    unit = math.gcd(*weights)
    bounds = list(itertools.accumulate(weight // unit for weight in weights))
    total = bounds[-1]
    # A stride that shares no factor with the total visits every slot once per round, and near neighbours far apart.
    stride = next(step for step in itertools.count(max(1, int(total * _GOLDEN))) if math.gcd(step, total) == 1)
    slot = turn * stride % total
    return next(instance for instance, bound in zip(ordered, bounds, strict=True) if slot < bound)
