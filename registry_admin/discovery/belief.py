"""What to believe of Consul's lists: an agent that has lost its state tells less than is true, for a while."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from registry_admin.consul.api import Reply
from registry_admin.consul.types import ServiceInstance

LOST_STATE_S = 60.0  # how long instances are believed in that Consul has forgotten


@dataclass(frozen=True, kw_only=True)
class Belief:
    """`instances` are believed in; `told` is Consul's last list, and `index` its index.

    They differ while Consul is in doubt, which began at `doubted_at` (seconds of a monotonic clock).
    """

    instances: tuple[ServiceInstance, ...]
    told: tuple[ServiceInstance, ...]
    index: int
    doubted_at: float | None = None

    def at(self, now: float) -> Belief:
        """What is left of it at that time: doubts end."""
        if self.doubted_at is None or now - self.doubted_at <= LOST_STATE_S:
            return self
        return Belief(instances=self.told, told=self.told, index=self.index)


def believe(before: Belief | None, reply: Reply[list[ServiceInstance]], *, now: float, after_failure: bool) -> Belief:
    """What to believe after this reply. `after_failure`: the request before it had failed.

    Consul has lost its state where the index goes backwards, or where nothing at all is left after it was away. What is
    missing then is believed in until it is back, is seen to be taken out, or LOST_STATE_S have passed.
    """
    told = tuple(reply.data)
    if before is None:
        return Belief(instances=told, told=told, index=reply.index)
    before = before.at(now)
    doubted_at, forgotten = before.doubted_at, _without(before.instances, before.told)
    if reply.index < before.index or (after_failure and not told):
        doubted_at, forgotten = now, before.instances
    missing = _without(forgotten, told)
    return Belief(instances=told + missing, told=told, index=reply.index, doubted_at=doubted_at if missing else None)


def _without(
    instances: Collection[ServiceInstance], others: Collection[ServiceInstance]
) -> tuple[ServiceInstance, ...]:
    known = {(one.node, one.id) for one in others}
    return tuple(one for one in instances if (one.node, one.id) not in known)
