"""What is to be done so that Consul matches the declarations, as data: compared, printed and counted before it runs.

Pure: the same declarations and the same observation give the same plan, whatever their order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from registry_admin.consul.types import META_DIGEST, ServiceInstance, ServiceSpec
from registry_admin.errors import UnsafePlanError

SAFE_REMOVALS = 3
SAFE_SHARE = 0.2


class Action(StrEnum):
    """What happens to an instance in Consul."""

    REGISTER = "register"
    UPDATE = "update"
    DEREGISTER = "deregister"
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


@dataclass(frozen=True, kw_only=True)
class Declared:
    """An instance as the inventory wants it.

    `claimed`: we have registered it before, so it is ours even where someone's edit took our mark off.
    `departed`: it registered itself and has left by itself, so bringing it back is the module's part.
    """

    spec: ServiceSpec
    enabled: bool = True
    claimed: bool = False
    departed: bool = False


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """One field that differs: what Consul has, and what it should have."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class PlanItem:
    """What happens to one instance, and why."""

    action: Action
    service: str
    id: str
    reason: str
    status: SyncStatus
    changes: tuple[FieldChange, ...] = ()
    spec: ServiceSpec | None = None
    observed: ServiceInstance | None = field(default=None, compare=False)

    @property
    def services(self) -> frozenset[str]:
        """The name that it is declared under, and the one that Consul has: they differ after a renaming."""
        return frozenset({self.service, self.observed.service if self.observed else self.service})

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "action": str(self.action),
            "service": self.service,
            "id": self.id,
            "reason": self.reason,
            "changes": [{"field": c.field, "before": c.before, "after": c.after} for c in self.changes],
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that one pass would do (`changes`) and would leave alone (`left_alone`), sorted."""

    items: tuple[PlanItem, ...]
    owner: str
    statuses: Mapping[str, SyncStatus] = field(default_factory=dict)
    owned: int = 0
    declared: int = 0

    def of(self, action: Action) -> tuple[PlanItem, ...]:
        """The items with this action."""
        return tuple(item for item in self.items if item.action is action)

    @property
    def changes(self) -> tuple[PlanItem, ...]:
        """The items that change something in Consul."""
        return tuple(item for item in self.items if item.action is not Action.LEAVE)

    @property
    def summary(self) -> str:
        """`Plan: 3 to register, 1 to update, 0 to deregister, 2 left alone`"""
        counts = (len(self.of(action)) for action in Action)
        return "Plan: {} to register, {} to update, {} to deregister, {} left alone".format(*counts)

    def without_removals(self) -> Plan:
        """The same plan with every removal left alone."""
        return replace(self, items=tuple(item for item in self.items if item.action is not Action.DEREGISTER))

    def restricted_to(self, services: Collection[str]) -> Plan:
        """The part of the plan that touches these services, declared or observed under their names."""
        return replace(self, items=tuple(item for item in self.items if not item.services.isdisjoint(services)))

    def check_safe(self) -> None:
        """Raises UnsafePlanError where so much would go that a mistake is likelier than an intention.

        More than 20 % (and more than 3) of what is owned, or anything at all while nothing is declared.
        """
        removals = self.of(Action.DEREGISTER)
        if not removals:
            return
        what = f"would remove {len(removals)} of {self.owned} instances that this inventory owns"
        if not self.declared:
            raise UnsafePlanError(
                f"The inventory declares nothing, and the plan {what}: nothing was removed. "
                "If that is meant, use --force; to keep them, use --no-prune.",
                would_remove=[item.id for item in removals],
            )
        if len(removals) > SAFE_REMOVALS and len(removals) > SAFE_SHARE * self.owned:
            raise UnsafePlanError(
                f"The plan {what}, more than {SAFE_SHARE:.0%}: nothing was removed. "
                "If that is meant, use --force; to keep them, use --no-prune.",
                would_remove=[item.id for item in removals],
            )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "summary": {
                "register": len(self.of(Action.REGISTER)),
                "update": len(self.of(Action.UPDATE)),
                "deregister": len(self.of(Action.DEREGISTER)),
                "left_alone": len(self.of(Action.LEAVE)),
            },
            "items": [item.as_dict() for item in self.items],
        }


def make_plan(
    declared: Iterable[Declared],
    observed: Mapping[str, ServiceInstance],
    *,
    owner: str,
    prune: bool = True,
) -> Plan:
    """Compares what should be with what one agent has.

    `observed` is by instance ID. `owner` is this inventory's mark: nothing that neither carries it nor is declared is
    ever changed. `prune` removes what is owned and not declared any more.
    """
    wanted = {one.spec.id: one for one in declared}
    spellings = {instance_id.lower(): instance_id for instance_id in observed}
    items: list[PlanItem] = []
    statuses: dict[str, SyncStatus] = {}
    for instance_id in sorted(wanted.keys() | observed.keys()):
        want, have = wanted.get(instance_id), observed.get(instance_id)
        item = _compare(want, have, owner=owner, prune=prune)
        twin = spellings.get(instance_id.lower(), instance_id)
        if want is not None and item is not None and item.action is Action.REGISTER and twin != instance_id:
            item = _crowded_out(want, by=twin)
        if item is None:
            statuses[instance_id] = SyncStatus.SYNCED
            continue
        statuses[instance_id] = item.status
        if have is not None or item.action is not Action.LEAVE or want is None or want.enabled:
            items.append(item)
    items.sort(key=lambda item: (item.service, item.id))
    return Plan(
        items=tuple(items),
        owner=owner,
        statuses=statuses,
        owned=sum(1 for have in observed.values() if have.owner == owner),
        declared=len(wanted),
    )


def _compare(want: Declared | None, have: ServiceInstance | None, *, owner: str, prune: bool) -> PlanItem | None:
    """What to do about one instance ID, or None where it is as it should be."""
    if want is None:
        assert have is not None  # noqa: S101 - an ID is in at least one of the two
        return _undeclared(have, owner=owner, prune=prune)
    if not want.enabled:
        return _disabled(want, have, owner=owner)
    if have is None:
        return _missing(want)
    return _present(want, have, owner=owner)


def _undeclared(have: ServiceInstance, *, owner: str, prune: bool) -> PlanItem:
    def leave(reason: str) -> PlanItem:
        return _item(Action.LEAVE, SyncStatus.UNMANAGED, reason, have=have)

    if have.registered_itself:
        return leave("registered itself and is not declared")
    if not have.owner:
        return leave("registered by someone else and not declared")
    if have.owner != owner:
        return leave(f"owned by {have.owner!r}")
    if not prune:
        return _item(Action.LEAVE, SyncStatus.OUT_OF_SYNC, "owned but no longer declared; prune is off", have=have)
    return _item(Action.DEREGISTER, SyncStatus.OUT_OF_SYNC, "owned but no longer declared", have=have)


def _disabled(want: Declared, have: ServiceInstance | None, *, owner: str) -> PlanItem:
    if have is None:
        return _item(Action.LEAVE, SyncStatus.DISABLED, "disabled", want=want)
    if have.registered_itself:
        reason = "disabled, but it registers itself: stop the module, or put the instance into maintenance"
        return _item(Action.LEAVE, SyncStatus.DISABLED, reason, want=want, have=have)
    if have.owner == owner or (want.claimed and not have.owner):
        return _item(Action.DEREGISTER, SyncStatus.DISABLED, "disabled", want=want, have=have)
    return _item(Action.LEAVE, SyncStatus.DISABLED, "disabled, and registered by someone else", want=want, have=have)


def _missing(want: Declared) -> PlanItem:
    if want.departed:
        reason = "left by itself; it registers itself again when it starts"
        return _item(Action.LEAVE, SyncStatus.MISSING, reason, want=want)
    reason = "not in Consul any more" if want.claimed else "not in Consul yet"
    return _item(Action.REGISTER, SyncStatus.MISSING, reason, want=want)


def _crowded_out(want: Declared, *, by: str) -> PlanItem:
    """To the catalog, though not to the agent, IDs that differ only in case are one: ours would replace the other."""
    reason = f"Consul has {by!r}, and can't keep apart IDs that differ only in upper and lower case"
    return _item(Action.LEAVE, SyncStatus.MISSING, reason, want=want)


def _present(want: Declared, have: ServiceInstance, *, owner: str) -> PlanItem | None:
    changes = differences(want.spec, have)
    if have.owner not in ("", owner):
        reason = f"declared here, but owned by {have.owner!r}"
        return _item(Action.LEAVE, SyncStatus.OUT_OF_SYNC, reason, want=want, have=have, changes=changes)
    if have.owner or have.registered_itself or want.claimed:
        if not have.owner and not have.registered_itself:  # without our mark it could never be pruned
            changes = (*changes, FieldChange(field="owner", before=None, after=owner))
        if not changes:
            return None
        reason = "differs from its declaration"
        return _item(Action.UPDATE, SyncStatus.OUT_OF_SYNC, reason, want=want, have=have, changes=changes)
    reason = "declared here, but someone else registered an instance with this ID"
    return _item(Action.LEAVE, SyncStatus.OUT_OF_SYNC, reason, want=want, have=have, changes=changes)


def differences(spec: ServiceSpec, have: ServiceInstance) -> tuple[FieldChange, ...]:
    """Field by field, what Consul has and what the spec says.

    Consul never shows a check's definition, so a check that differs is known by the digest alone, and its former
    definition is not known. Tags are not compared where Consul lets others change them (EnableTagOverride).
    """
    shown: list[tuple[str, Any, Any]] = [
        ("name", have.service, spec.name),
        ("address", have.address, spec.address),
        ("port", have.port, spec.port),
        ("weight", have.weight, spec.weight),
    ]
    if not have.tag_override:
        shown.append(("tags", list(have.tags), list(spec.tags)))
    before, after = have.own_meta, dict(spec.meta)
    shown += [(f"meta.{key}", before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys())]
    changes = [FieldChange(field=name, before=old, after=new) for name, old, new in shown if old != new]
    if have.digest != spec.digest and not changes:
        changes.append(FieldChange(field="check", before=_former_check(have), after=str(spec.check)))
    return tuple(changes)


def _former_check(have: ServiceInstance) -> str:
    return "another definition" if META_DIGEST in have.meta else "not registered by us"


def _item(
    action: Action,
    status: SyncStatus,
    reason: str,
    *,
    want: Declared | None = None,
    have: ServiceInstance | None = None,
    changes: tuple[FieldChange, ...] = (),
) -> PlanItem:
    service = want.spec.name if want else have.service if have else ""
    instance_id = want.spec.id if want else have.id if have else ""
    return PlanItem(
        action=action,
        service=service,
        id=instance_id,
        reason=reason,
        status=status,
        changes=changes,
        spec=want.spec if want else None,
        observed=have,
    )
