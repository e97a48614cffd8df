"""Last known good instances: bridges the time in which an agent has lost its state and lists too few."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from registry_admin.consul.api import ConsulReply
from registry_admin.consul.types import ServiceInstance

LOST_STATE_S = 60.0  # instances that an agent has forgotten are offered for so long


@dataclass(frozen=True, kw_only=True)
class LastKnownGood:
    """Instances to offer to callers, and the list that Consul reported last, with its index.

    They differ for LOST_STATE_S seconds after an agent has lost its state at `doubted_since` (seconds of a monotonic
    clock).
    """

    instances: tuple[ServiceInstance, ...]
    reported: tuple[ServiceInstance, ...]
    index: int
    doubted_since: float | None = None

    def at(self, now: float) -> LastKnownGood:
        """Returns this value as it is at `now`: after LOST_STATE_S, only the reported instances."""
        if self.doubted_since is None or now - self.doubted_since <= LOST_STATE_S:
            return self
        return LastKnownGood(instances=self.reported, reported=self.reported, index=self.index)


def merge_reply(
    previous: LastKnownGood | None, reply: ConsulReply[list[ServiceInstance]], *, now: float, after_failure: bool
) -> LastKnownGood:
    """Returns the instances to offer after `reply`.

    Keeps missing ones while the agent may have lost its state: its index went backwards, or its first list after an
    outage is empty (`after_failure`: the request before had failed). They are kept until the agent reports them, until
    it has reported them and then dropped them, or until LOST_STATE_S have passed since the first such reply: one that
    comes again and again must not keep them for ever.
    """
    reported = tuple(reply.data)
    if previous is None:
        return LastKnownGood(instances=reported, reported=reported, index=reply.index)
    previous = previous.at(now)
    doubted_since, forgotten = previous.doubted_since, _without(previous.instances, previous.reported)
    if reply.index < previous.index or (after_failure and not reported):
        doubted_since, forgotten = now if doubted_since is None else doubted_since, previous.instances
    missing = _without(forgotten, reported)
    return LastKnownGood(
        instances=reported + missing,
        reported=reported,
        index=reply.index,
        doubted_since=doubted_since if missing else None,
    )


def _without(
    instances: Collection[ServiceInstance], excluded: Collection[ServiceInstance]
) -> tuple[ServiceInstance, ...]:
    keys = {(instance.node, instance.id) for instance in excluded}
    return tuple(instance for instance in instances if (instance.node, instance.id) not in keys)
