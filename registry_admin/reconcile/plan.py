"""The plan: the changes that make Consul match the declarations, as data to print, count and check before they run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from registry_admin.consul.marks import Owner, Place
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import UnsafePlanError


class Action(StrEnum):
    """A change to an instance in Consul."""

    REGISTER = "register"
    UPDATE = "update"
    DEREGISTER = "deregister"
    EVICT = "evict"
    LEAVE = "leave alone"


class SyncStatus(StrEnum):
    """The relation between a declaration and Consul. Health is a second axis."""

    SYNCED = "synced"
    OUT_OF_SYNC = "out_of_sync"
    MISSING = "missing"
    EVICTED = "evicted"
    UNMANAGED = "unmanaged"
    DISABLED = "disabled"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """The cause of a difference, as far as it can be known: a code for columns and URLs, and a label for people."""

    label: str

    def __new__(cls, code: str, label: str) -> Self:
        """Makes a member whose value is `code`."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.label = label
        return member

    NEVER_REGISTERED = "never_registered", "never registered"
    EDITED = "edited", "edited by hand"
    REMOVED = "removed", "removed by hand"
    AGENT_LOST_STATE = "agent_lost_state", "agent lost its state"
    EVICTED = "evicted", "evicted"
    RECOVERED = "recovered", "answers again"
    DECLARATION_CHANGED = "declaration_changed", "declaration changed"
    NOT_DECLARED = "not_declared", "no longer declared"
    DISABLED = "disabled", "disabled"
    ADOPTED = "adopted", "adopted"
    REGISTERED_ITSELF = "registered_itself", "registered itself"
    LEFT = "left", "left by itself"
    FOREIGN = "foreign", "someone else's"
    OTHER_NODE = "other_node", "on another node"
    NODE_FAILED = "node_failed", "its node has failed"
    NODE_REPLACED = "node_replaced", "its node was replaced"
    DOUBT = "doubt", "in doubt"
    TAKEN_OVER = "taken_over", "taken over"
    REPLACED = "replaced", "has a new ID"
    DIVERGED = "diverged", "agent and catalog differ"
    ORPHANED = "orphaned", "in the catalog only"
    TOKEN_CHANGED = "token_changed", "token changed"
    MAINTENANCE_LOST = "maintenance_lost", "lost its maintenance mode"

    @classmethod
    def label_of(cls, code: str) -> str:
        """Returns the label for a stored code; a code of another version is its own label."""
        return next((cause.label for cause in cls if cause == code), code)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A declared instance, and what the mirror remembers of it.

    `claim`: the place where we have registered it: there it is ours even where an edit by hand has removed our mark.
    `departed`: it registered itself and has left by itself; only the module brings it back, on `departed_node`.
    `applied_digest`: the digest of the spec that was last seen in sync under our mark.
    `evicted_reason`: reason of its eviction, else empty. `recovered`: it has just answered a probe, or gets
    another chance. `passes`: its check passes, as far as our probe can tell. `replaces`: IDs that it had before, which
    stay registered until it passes under its own. `maintenance`: the reason of its maintenance mode, kept for whenever
    it is registered; `lost_maintenance`: it is in Consul without that, though nobody has ended it.
    """

    spec: ServiceSpec
    enabled: bool = True
    claim: Place | None = None
    departed: bool = False
    departed_node: str = ""
    applied_digest: str = ""
    evicted_reason: str = ""
    recovered: bool = False
    passes: bool = True
    replaces: tuple[str, ...] = ()
    maintenance: str = ""
    lost_maintenance: bool = False


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """A field that differs: its value in Consul, and its declared value."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class PlanItem:
    """The change to one instance, and why.

    `passing`: it is known to answer, so it is registered as passing. `maintenance`: the reason of maintenance mode to
    put it into. `successor`: what takes its place, and must pass in the catalog before this one may leave. `held`: why
    the brake doesn't let it be applied, else empty. `confirmed`: a person has confirmed the number of removals.
    """

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
    maintenance: str = ""
    successor: ServiceSpec | None = None
    held: str = ""
    confirmed: bool = False

    @classmethod
    def about(
        cls,
        action: Action,
        status: SyncStatus,
        reason: str,
        declaration: Declared | None,
        instance: ServiceInstance | None = None,
        *,
        cause: Cause = Cause.DISABLED,
        changes: tuple[FieldChange, ...] = (),
    ) -> Self:
        """Makes an item about a declaration, an instance in Consul, or both."""
        return cls(
            action=action,
            service=declaration.spec.name if declaration else instance.service if instance else "",
            id=declaration.spec.id if declaration else instance.id if instance else "",
            reason=reason,
            status=status,
            cause=cause,
            changes=changes,
            spec=declaration.spec if declaration else None,
            observed=instance,
        )

    @property
    def services(self) -> frozenset[str]:
        """The declared name and the name in Consul, which differ after a renaming."""
        names = {self.service, self.observed.service if self.observed else self.service}
        return frozenset(names | ({self.successor.name} if self.successor else set()))

    @property
    def declared_id(self) -> str:
        """The ID of the declaration that it belongs to, which has another one now if this one is to leave."""
        return self.successor.id if self.successor else self.id

    @property
    def is_renaming(self) -> bool:
        """True if it leaves its service in Consul for one of another name, and that name wasn't given by hand."""
        renamed = self.observed is not None and self.observed.service.lower() != self.service.lower()
        return self.action is Action.UPDATE and renamed and self.cause is not Cause.EDITED

    @property
    def is_replaced(self) -> bool:
        """True if it leaves Consul because another instance of its service passes in its place: nothing is lost."""
        return (
            self.action is Action.DEREGISTER
            and self.successor is not None
            and self.observed is not None
            and self.observed.service.lower() == self.successor.name.lower()
        )

    @property
    def is_orphaned(self) -> bool:
        """True if only the catalog has it, and its agent couldn't take it out there."""
        return self.cause is Cause.ORPHANED

    @property
    def is_removal(self) -> bool:
        """True if it takes the instance out of Consul, or out of its service there.

        An eviction doesn't count, even where only the catalog is left to take it out of.
        """
        completes_eviction = self.is_orphaned and self.spec is not None
        is_removed = self.action is Action.DEREGISTER and not self.is_replaced and not completes_eviction
        return is_removed or self.is_renaming

    @property
    def node(self) -> str:
        """The node where it is registered; empty if it is not registered."""
        return self.observed.node if self.observed else ""

    @property
    def place(self) -> Place | None:
        """The place where it is registered; None if it is not registered."""
        return self.observed.place if self.observed else None

    def as_dict(self) -> dict[str, Any]:
        """Returns the item for JSON: the cause as a label for people, and as a code."""
        return {
            "action": str(self.action),
            "service": self.service,
            "id": self.id,
            "reason": self.reason,
            "cause": self.cause.label if self.cause else "",
            "cause_code": str(self.cause or ""),
            "changes": [{"field": c.field, "before": c.before, "after": c.after} for c in self.changes],
            "node": self.node,
            "held": self.held,
            "confirmed": self.confirmed,
            "replaced": self.is_replaced,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run changes (`changes`) and leaves alone, sorted.

    `statuses` covers the declarations, by instance ID; `observed` covers everything in Consul, by place. `present` has
    the instance that is the declared one, by instance ID. `disowned`: places of marked instances that aren't ours
    beyond doubt. `doubt`: why the snapshot may be incomplete or the declarations out of date, else empty. `scope`: the
    services that the plan is restricted to, or None.
    """

    items: tuple[PlanItem, ...]
    owner: Owner
    statuses: Mapping[str, SyncStatus] = field(default_factory=dict)
    observed: Mapping[Place, SyncStatus] = field(default_factory=dict)
    present: Mapping[str, ServiceInstance] = field(default_factory=dict)
    disowned: frozenset[Place] = frozenset()
    declared: int = 0
    doubt: str = ""
    scope: frozenset[str] | None = None

    @property
    def declared_places(self) -> frozenset[Place]:
        """The places of instances that a declaration is about: the declared ones, and those in the way of one."""
        in_the_way = (item.observed for item in self.items if item.spec is not None and item.observed is not None)
        return frozenset(instance.place for instance in (*self.present.values(), *in_the_way))

    def owns(self, instance: ServiceInstance) -> bool:
        """Returns whether an instance of the snapshot carries a mark, and is ours beyond doubt."""
        return instance.is_marked and instance.place in self.observed and instance.place not in self.disowned

    def with_actions(self, *actions: Action) -> tuple[PlanItem, ...]:
        """The items with one of these actions."""
        return tuple(item for item in self.items if item.action in actions)

    @property
    def changes(self) -> tuple[PlanItem, ...]:
        """The items that change something in Consul and aren't held."""
        return tuple(item for item in self.items if item.action is not Action.LEAVE and not item.held)

    @property
    def removals(self) -> tuple[PlanItem, ...]:
        """The items that take an instance out of Consul, or out of its service there."""
        return tuple(item for item in self.items if item.is_removal)

    @property
    def held(self) -> tuple[PlanItem, ...]:
        """The items that the brake holds."""
        return tuple(item for item in self.items if item.held)

    @property
    def replacing(self) -> Mapping[str, ServiceSpec]:
        """The successors of the instances that stay until those pass, by the ID of the one that stays."""
        return {item.id: item.successor for item in self.items if item.successor is not None}

    @property
    def summary(self) -> str:
        """`Plan: 3 to register, 1 to update, 0 to deregister, 2 left alone`"""
        evictions, held = len(self.with_actions(Action.EVICT)), len(self.held)
        return (
            f"Plan: {len(self.with_actions(Action.REGISTER))} to register, "
            f"{len(self.with_actions(Action.UPDATE))} to update, "
            f"{len(self.with_actions(Action.DEREGISTER))} to deregister, "
            + (f"{evictions} to evict, " if evictions else "")
            + f"{len(self.with_actions(Action.LEAVE))} left alone"
            + (f"; {held} held by the brake" if held else "")
        )

    def restricted_to(self, services: Collection[str]) -> Plan:
        """Returns the part of the plan that touches these services by their declared names or their names in Consul."""
        items = tuple(item for item in self.items if not item.services.isdisjoint(services))
        return replace(self, items=items, scope=frozenset(services))

    def restricted_to_takeover(self) -> Plan:
        """Returns what is taken over, and what stays in doubt."""
        items = tuple(item for item in self.items if item.cause in (Cause.TAKEN_OVER, Cause.DOUBT))
        return replace(self, items=items)

    def restricted_to_items(self, instance_ids: Collection[str]) -> Plan:
        """Returns the part of the plan for these instances."""
        return replace(self, items=tuple(item for item in self.items if item.declared_id in instance_ids))

    @property
    def refusal(self) -> UnsafePlanError | None:
        """What the brake holds and why, as an error; None where it holds nothing."""
        if not self.held:
            return None
        reasons, number = "; ".join(dict.fromkeys(item.held for item in self.held)), len(self.removals)
        return UnsafePlanError(
            f"The brake holds {len(self.held)} of {number or len(self.held)} removals: {reasons}. They stay in Consul. "
            f"If they are meant to go, confirm their number: sync_registry --expect-removals {number}, or the page "
            "Drift, Prune. To keep them, declare them again.",
            would_remove=[item.id for item in self.held],
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan for JSON."""
        return {
            "summary": {
                action.name.lower(): len(self.with_actions(action)) for action in Action if action is not Action.LEAVE
            }
            | {"left_alone": len(self.with_actions(Action.LEAVE)), "held": len(self.held)},
            "items": [item.as_dict() for item in self.items],
        }
