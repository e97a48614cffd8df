"""What is to be done so that Consul matches the declarations, as data: compared, printed and counted before it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from registry_admin.consul.types import ServiceInstance, ServiceSpec
from registry_admin.errors import UnsafePlanError

SAFE_REMOVALS = 3
SAFE_SHARE = 0.2


class Action(StrEnum):
    """What happens to an instance in Consul."""

    REGISTER = "register"
    UPDATE = "update"
    DEREGISTER = "deregister"
    EVICT = "evict"
    LEAVE = "leave alone"


class SyncStatus(StrEnum):
    """How what is declared and what Consul has relate; health is another axis."""

    SYNCED = "synced"
    OUT_OF_SYNC = "out_of_sync"
    MISSING = "missing"
    EVICTED = "evicted"
    UNMANAGED = "unmanaged"
    DISABLED = "disabled"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """What has happened, as far as can be told, in words for people."""

    NEVER_REGISTERED = "never registered"
    EDITED = "edited by hand"
    REMOVED = "removed by hand"
    AGENT_LOST_STATE = "agent lost its state"
    EVICTED = "evicted"
    ANSWERS_AGAIN = "answers again"
    DECLARATION_CHANGED = "declaration changed"
    NOT_DECLARED = "no longer declared"
    DISABLED = "disabled"
    ADOPTED = "adopted"
    REGISTERED_ITSELF = "registered itself"
    LEFT = "left by itself"
    FOREIGN = "someone else's"
    OTHER_NODE = "on another node"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """An instance as the inventory wants it, and what is remembered of it.

    `claimed`: we have registered it before, so it is ours even where someone's edit took our mark off.
    `departed`: it registered itself and has left by itself, so bringing it back is the module's part.
    `applied`: the digest of the spec that was last seen in sync under our mark.
    `evicted`: why it was taken out as dead; empty unless it is. `answers`: it has just been seen to answer again.
    """

    spec: ServiceSpec
    enabled: bool = True
    claimed: bool = False
    departed: bool = False
    applied: str = ""
    evicted: str = ""
    answers: bool = False


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """One field that differs: what Consul has, and what it should have."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class PlanItem:
    """What happens to one instance, and why. `passing`: it is known to answer, so it is registered as passing."""

    action: Action
    service: str
    id: str
    reason: str
    status: SyncStatus
    cause: Cause | None = None
    changes: tuple[FieldChange, ...] = ()
    spec: ServiceSpec | None = None
    observed: ServiceInstance | None = field(default=None, compare=False)
    passing: bool = False

    @property
    def services(self) -> frozenset[str]:
        """The name that it is declared under, and the one that Consul has: they differ after a renaming."""
        return frozenset({self.service, self.observed.service if self.observed else self.service})

    @property
    def node(self) -> str:
        """The node that has it, or nothing."""
        return self.observed.node if self.observed else ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "action": str(self.action),
            "service": self.service,
            "id": self.id,
            "reason": self.reason,
            "cause": str(self.cause or ""),
            "changes": [{"field": c.field, "before": c.before, "after": c.after} for c in self.changes],
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that one pass would do (`changes`) and would leave alone, sorted.

    `statuses` are of what is declared or on our own agent, by instance ID; `elsewhere` of what other nodes have, by
    node and ID. `doubt`: why the observation may be incomplete, or nothing. `scope`: the services that it is
    restricted to, or None.
    """

    items: tuple[PlanItem, ...]
    owner: str
    statuses: Mapping[str, SyncStatus] = field(default_factory=dict)
    elsewhere: Mapping[tuple[str, str], SyncStatus] = field(default_factory=dict)
    owned: int = 0
    declared: int = 0
    doubt: str = ""
    scope: frozenset[str] | None = None

    def of(self, *actions: Action) -> tuple[PlanItem, ...]:
        """The items with one of these actions."""
        return tuple(item for item in self.items if item.action in actions)

    @property
    def changes(self) -> tuple[PlanItem, ...]:
        """The items that change something in Consul."""
        return tuple(item for item in self.items if item.action is not Action.LEAVE)

    @property
    def summary(self) -> str:
        """`Plan: 3 to register, 1 to update, 0 to deregister, 2 left alone`"""
        evictions = len(self.of(Action.EVICT))
        return (
            f"Plan: {len(self.of(Action.REGISTER))} to register, {len(self.of(Action.UPDATE))} to update, "
            f"{len(self.of(Action.DEREGISTER))} to deregister, "
            + (f"{evictions} to evict, " if evictions else "")
            + f"{len(self.of(Action.LEAVE))} left alone"
        )

    def without_removals(self) -> Plan:
        """The plan without what `check_safe` refuses: evictions, which have a guard of their own, only in doubt."""
        refused = {Action.DEREGISTER, Action.EVICT} if self.doubt else {Action.DEREGISTER}
        return replace(self, items=tuple(item for item in self.items if item.action not in refused))

    def restricted_to(self, services: Collection[str]) -> Plan:
        """The part of the plan that touches these services, declared or observed under their names."""
        kept = tuple(item for item in self.items if not item.services.isdisjoint(services))
        return replace(self, items=kept, scope=frozenset(services))

    def restricted_to_items(self, instance_ids: Collection[str]) -> Plan:
        """The part of the plan that is about these instances. What `check_safe` compares with stays the whole."""
        return replace(self, items=tuple(item for item in self.items if item.id in instance_ids))

    def check_safe(self) -> None:
        """Raises UnsafePlanError where a removal is likelier a mistake than an intention.

        Any at all while there is doubt; of a whole plan also any while nothing is declared, and more than 20 % (and
        more than 3) of what is owned.
        """
        removals = self.of(Action.DEREGISTER)
        if self.doubt and (doubtful := self.of(Action.DEREGISTER, Action.EVICT)):
            raise _unsafe(f"What Consul shows may be incomplete ({self.doubt})", doubtful, self.owned)
        if self.scope is not None or not removals:
            return
        if why := why_unsafe(len(removals), owned=self.owned, declared=self.declared):
            raise _unsafe(why, removals, self.owned)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "summary": {action.name.lower(): len(self.of(action)) for action in Action if action is not Action.LEAVE}
            | {"left_alone": len(self.of(Action.LEAVE))},
            "items": [item.as_dict() for item in self.items],
        }


def why_unsafe(removals: int, *, owned: int, declared: int) -> str:
    """Why removing so many of what is owned is likelier a mistake than an intention, or nothing."""
    if removals and not declared:
        return "The inventory declares nothing"
    if removals > SAFE_REMOVALS and removals > SAFE_SHARE * owned:
        return f"That is more than {SAFE_SHARE:.0%}"
    return ""


def _unsafe(why: str, removals: Collection[PlanItem], owned: int) -> UnsafePlanError:
    return UnsafePlanError(
        f"{why}, and the plan would remove {len(removals)} of {owned} instances that this inventory owns: nothing was "
        "removed. If that is meant, use --force; to keep them, use --no-prune.",
        would_remove=[item.id for item in removals],
    )
