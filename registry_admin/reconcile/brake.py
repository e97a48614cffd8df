"""The brake: holds removals that are more likely a mistake than an intention. Pure; the caller has the clock.

Three rules, over everything that was removed within the window (`Limits.window_s`), whoever removed it and however:

1. No service leaves Consul as a whole, unless a person has named it.
2. Of no service, of no node, and of all together, more than `Limits.free` and more than `Limits.share` are lost. The
   denominator is what is declared, and what was declared before the removals.
3. Nothing is removed while what Consul shows is in doubt.

The state after the step counts: an instance of the same service that takes a removed one's place makes up for it. A
removal that a person has confirmed by its number isn't counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from registry_admin.consul.health import Health
from registry_admin.reconcile.plan import Action, Plan, PlanItem

_NOTHING: Mapping[str, Approval] = MappingProxyType({})
_BLOCKED = (Action.EVICT, Action.DEREGISTER)  # also where they aren't counted
_NOT_MOVED: Mapping[str, str] = MappingProxyType({})


class Removal(NamedTuple):
    """An instance that leaves a service in Consul. `renamed`: it stays on its node, as another service.

    `is_up`: it is not critical.
    """

    service: str
    node: str
    id: str
    renamed: bool = False
    is_up: bool = True


class Member(NamedTuple):
    """An instance that is declared and enabled. `node` is empty where it isn't in Consul.

    `stands`: callers find it after the step: it is in Consul, and not critical, or is being registered.
    """

    service: str
    node: str
    id: str
    stands: bool = True


class Approval(IntEnum):
    """How far a person has confirmed a removal."""

    NAMED = 1  # chose just this service or instance: it may be the last one of its service
    COUNTED = 2  # confirmed the number of removals: no limit holds it


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Losses up to `free` instances, or up to `share` of the group, pass within `window_s` seconds."""

    free: int = 3
    share: float = 0.2
    window_s: float = 600.0

    def are_exceeded(self, lost: int, of: int) -> bool:
        """Returns whether losing so many of a group is more than the limits let pass."""
        return lost > self.free and lost > self.share * of


@dataclass(frozen=True, kw_only=True)
class Brake:
    """What removals are judged by: the declarations, what was removed within the window, and what is approved.

    `new`: IDs that were first registered within the window, or are by this plan. `moved`: the present ID of
    declarations that had another, by that one.
    `approvals`: by instance ID. `blocked`: why nothing may be removed at all, else empty.
    """

    members: Collection[Member] = ()
    recent: Collection[Removal] = ()
    new: Collection[str] = frozenset()
    moved: Mapping[str, str] = field(default_factory=lambda: _NOT_MOVED)
    approvals: Mapping[str, Approval] = field(default_factory=lambda: _NOTHING)
    limits: Limits = field(default_factory=Limits)
    blocked: str = ""

    def held(self, removals: Iterable[Removal]) -> dict[Removal, str]:
        """Returns the removals that are held, each with the reason. Named ones are judged before the others."""
        ordered = sorted(set(removals))
        if self.blocked:
            return dict.fromkeys(ordered, self.blocked)
        named, others = [], []
        for removal in ordered:
            approval = self.approvals.get(removal.id)
            if approval is None:
                others.append(removal)
            elif approval is Approval.NAMED:
                named.append(removal)
        counted = [removal for removal in ordered if self.approvals.get(removal.id) is Approval.COUNTED]
        held: dict[Removal, str] = {}
        passed = counted
        for step, may_be_whole in ((named, True), (others, False)):
            reasons = self._reasons(step, passed, counted=counted, may_be_whole=may_be_whole)
            held |= reasons
            passed = [*passed, *(removal for removal in step if removal not in reasons)]
        return held

    def _reasons(
        self, step: list[Removal], passed: Collection[Removal], *, counted: Collection[Removal], may_be_whole: bool
    ) -> dict[Removal, str]:
        """Returns the reasons to hold removals of a step that follows those that have `passed`."""
        reasons: dict[Removal, str] = {}
        group = _Group(self, [*passed, *step], counted)
        by_service: dict[str, list[Removal]] = defaultdict(list)
        for removal in step:
            by_service[removal.service.lower()].append(removal)
        for key, removals in by_service.items():
            if not may_be_whole and group.vanishes(key, removals):
                reason = (
                    "the inventory declares nothing"
                    if not self.members
                    else f"the service {removals[0].service} would leave Consul as a whole"
                )
            else:
                reason = group.service_reason(key, removals[0].service)
            reasons |= dict.fromkeys(removals, reason) if reason else {}
        rest = [removal for removal in step if removal not in reasons]
        group = _Group(self, [*passed, *rest], counted)
        nodes = sorted({removal.node.lower(): removal.node for removal in rest if not removal.renamed}.items())
        if reason := group.reason_of_all():
            return reasons | dict.fromkeys(rest, reason)
        for key, node in nodes:
            if reason := group.node_reason(key, node):
                reasons |= {removal: reason for removal in rest if removal.node.lower() == key}
        return reasons


class _Group:
    """Losses of the window and of `removals`, by service, by node, and over all."""

    def __init__(self, brake: Brake, removals: Collection[Removal], counted: Collection[Removal]) -> None:
        self._limits = brake.limits
        self._brake = brake
        leaving = {(removal.node.lower(), removal.id) for removal in removals if not removal.renamed}
        self._renamed = {(removal.service.lower(), removal.id) for removal in removals if removal.renamed}
        self._members: dict[str, list[Member]] = defaultdict(list)
        for member in brake.members:
            if (member.node.lower(), member.id) not in leaving:
                self._members[member.service.lower()].append(member)
        approved = {removal.id for removal in counted}
        standing = {member.id for members in self._members.values() for member in members if member.stands}
        lost: dict[tuple[str, str], Removal] = {
            (removal.service.lower(), removal.id): removal
            for removal in (*brake.recent, *removals)
            if removal.id not in approved and (removal.renamed or removal.id not in standing)
        }
        self._lost_keys = lost.keys()
        self._lost: dict[str, list[Removal]] = defaultdict(list)
        for (service, _), removal in lost.items():
            self._lost[service].append(removal)

    def vanishes(self, service: str, removals: Collection[Removal]) -> bool:
        """Returns whether callers of the service find nobody of ours after the step, because of these removals."""
        members = [member for member in self._members[service] if (service, member.id) not in self._renamed]
        if any(member.stands for member in members):
            return False
        return not any(member.node for member in members) or any(removal.is_up for removal in removals)

    def service_reason(self, key: str, name: str) -> str:
        """Returns why a service would lose too much, else nothing."""
        lost, of = self._loss(key), self._size(key)
        if not self._limits.are_exceeded(lost, of):
            return ""
        return f"the service {name} would lose {lost} of {of} instances, {self._bound}"

    def node_reason(self, key: str, name: str) -> str:
        """Returns why a node would lose too much, else nothing."""
        lost = {service: self._loss(service, node=key) for service in self._lost}
        of = sum(
            (member.node or name).lower() == key and not self._is_lost(service, member)
            for service, members in self._members.items()
            for member in members
        ) + sum(removal.node.lower() == key for removals in self._lost.values() for removal in removals)
        if not self._limits.are_exceeded(sum(lost.values()), of):
            return ""
        return f"node {name} would lose {sum(lost.values())} of {of} instances, {self._bound}"

    def reason_of_all(self) -> str:
        """Returns why all services together would lose too much, else nothing."""
        services = self._lost.keys() | self._members.keys()
        lost = sum(self._loss(service, with_renamed=False) for service in services)
        of = sum(self._size(service) for service in services)
        if not self._limits.are_exceeded(lost, of):
            return ""
        return f"the inventory would lose {lost} of {of} instances, {self._bound}"

    @property
    def _bound(self) -> str:
        minutes = self._limits.window_s / 60
        return f"more than {self._limits.share:.0%} within {minutes:g} minutes"

    def _loss(self, service: str, *, node: str | None = None, with_renamed: bool = True) -> int:
        """Returns how many instances the service has lost without another in their place.

        A moved declaration takes the place of what it was. Any new instance takes that of one that isn't new itself.
        """
        lost = [
            removal
            for removal in self._lost[service]
            if (node is None or removal.node.lower() == node) and (not removal.renamed or (with_renamed and not node))
        ]
        new, moved = self._brake.new, self._brake.moved
        standing = {member.id for member in self._members[service] if member.stands}
        left = [removal.id for removal in lost if moved.get(removal.id) not in standing]
        spare = sum(member in new for member in standing - {moved.get(removal.id, "") for removal in lost})
        return len(left) - min(spare, sum(instance_id not in new for instance_id in left))

    def _size(self, service: str) -> int:
        """Returns how many instances are declared, and were before the losses."""
        members = {member.id for member in self._members[service]}
        return len(members | {removal.id for removal in self._lost[service]})

    def _is_lost(self, service: str, member: Member) -> bool:
        return (service, member.id) in self._lost_keys


def apply_brake(plan: Plan, brake: Brake, *, force: bool = False, expected: int | None = None) -> Plan:
    """Returns the plan with the items marked that the brake holds, and those whose number a person has confirmed.

    `force` lets everything pass. `expected`: the number of removals that a person has confirmed; another number holds
    all of them. What blocks removals holds evictions too.
    """
    removals = {id(item): _removal(item) for item in plan.removals}
    if force:
        held, confirmed = {}, set(removals)
    elif expected is not None and removals:
        differs = f"it would be {len(removals)} removals, and {expected} are expected"
        reason = brake.blocked or ("" if len(removals) == expected else differs)
        held, confirmed = dict.fromkeys(removals.values(), reason), set() if reason else set(removals)
    else:
        held = brake.held(removals.values())
        counted = {key for key, approval in brake.approvals.items() if approval is Approval.COUNTED}
        confirmed = {key for key, removal in removals.items() if removal.id in counted}
    blocked = "" if force else brake.blocked

    def marked(item: PlanItem) -> PlanItem:
        removal = removals.get(id(item))
        reason = held.get(removal, "") if removal else blocked if item.action in _BLOCKED else ""
        if reason:
            return replace(item, held=reason, reason=f"{item.reason}; held by the brake: {reason}")
        return replace(item, confirmed=True) if id(item) in confirmed else item

    return replace(plan, items=tuple(map(marked, plan.items))) if removals or blocked else plan


def _removal(item: PlanItem) -> Removal:
    observed = item.observed
    assert observed is not None  # noqa: S101 - what isn't in Consul can't be removed
    is_up = observed.health is not Health.CRITICAL
    return Removal(observed.service, observed.node, item.id, renamed=item.is_renaming, is_up=is_up)
