"""Our agent and the catalog of its node: when a difference between them is more than a delay. Pure.

A change takes milliseconds from the agent to the catalog. Where the catalog refuses it, the agent tries again at its
next sync only, and so a difference is confirmed by a second look after that: docs/decisions/0023-agent-and-catalog.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil, log2
from types import MappingProxyType
from typing import NamedTuple

from registry_admin.consul.health import Health
from registry_admin.consul.own_node import CatalogComparison
from registry_admin.consul.snapshot import Snapshot
from registry_admin.consul.types import ServiceInstance

ORPHANED = "its agent doesn't have it any more, and the catalog still shows it"
SYNC_INTERVAL_S = 60.0  # of agents, up to 128 nodes: https://developer.hashicorp.com/consul/docs/concept/anti-entropy
RETRY_S = 15.0  # after which an agent tries again what has failed


class Difference(NamedTuple):
    """A difference between our agent and the catalog, and since when it was seen at each look."""

    text: str
    since: datetime


_NONE: Mapping[str, Difference] = MappingProxyType({})
_NO_ORPHANS: Mapping[str, ServiceInstance] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Instances of our node that differ between our agent and the catalog, by ID, at one look.

    `confirmed`: those that differed in the same way at looks more than a sync of the agent apart. `orphans`: the
    instances that only the catalog has. `interval`: the time after which a difference is confirmed.
    """

    differences: Mapping[str, Difference] = field(default_factory=lambda: _NONE)
    confirmed: frozenset[str] = frozenset()
    orphans: Mapping[str, ServiceInstance] = field(default_factory=lambda: _NO_ORPHANS)
    interval: timedelta = timedelta()

    def due_in_s(self, now: datetime) -> float | None:
        """Returns the seconds until the first difference can be confirmed; None where there is none."""
        waiting = [difference.since for key, difference in self.differences.items() if key not in self.confirmed]
        return max((min(waiting) + self.interval - now).total_seconds(), 0.0) if waiting else None

    def has_begun_at(self, now: datetime) -> bool:
        """Returns whether something differs since then, and hasn't before."""
        return any(difference.since == now for difference in self.differences.values())

    def without(self, instance_ids: Collection[str]) -> Divergence:
        """Returns the divergence without these instances."""
        if not self.differences or not instance_ids:
            return self
        return replace(
            self,
            differences={key: value for key, value in self.differences.items() if key not in instance_ids},
            orphans={key: value for key, value in self.orphans.items() if key not in instance_ids},
        )

    def shown(self, snapshot: Snapshot, orphans: Collection[str]) -> Snapshot:
        """Returns the snapshot for people: with these orphans, and nothing that differs as passing."""
        local = {
            key: replace(instance, health=Health.UNKNOWN)
            for key in self.differences
            if (instance := snapshot.local.get(key)) and instance.health in (Health.PASSING, Health.WARNING)
        }
        present = {key: self.orphans[key] for key in orphans}
        return replace(snapshot, local={**snapshot.local, **local, **present}) if local or present else snapshot


NO_DIVERGENCE = Divergence()


def sync_interval(nodes: int) -> timedelta:
    """Returns how long an agent may take to tell the catalog again, in a datacenter of so many nodes."""
    scale = ceil(log2(nodes) - log2(128)) + 1 if nodes > 128 else 1
    return timedelta(seconds=SYNC_INTERVAL_S * scale + RETRY_S)


def follow(
    comparison: CatalogComparison,
    known: Mapping[str, Difference],
    *,
    now: datetime,
    interval: timedelta,
) -> Divergence:
    """Returns what differs now, with since when it has: `known` is what differed at the look before."""
    texts = {**comparison.differing, **dict.fromkeys(comparison.orphans, ORPHANED)}
    differences = {key: _continued(text, known.get(key), now) for key, text in texts.items()}
    return Divergence(
        differences=differences,
        confirmed=frozenset(key for key, difference in differences.items() if now - difference.since >= interval),
        orphans=comparison.orphans,
        interval=interval,
    )


def _continued(text: str, before: Difference | None, now: datetime) -> Difference:
    is_same = before is not None and before.text == text and before.since <= now
    return before if before is not None and is_same else Difference(text, now)
