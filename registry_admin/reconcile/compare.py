"""The planner: what should be and what Consul has, compared into a plan.

Pure: the same declarations and the same observation give the same plan, whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from registry_admin.consul.observe import Observation
from registry_admin.consul.types import META_DIGEST, ServiceInstance, ServiceSpec
from registry_admin.reconcile.plan import Action, Cause, Declared, FieldChange, Plan, PlanItem, SyncStatus

_NONE: Mapping[str, str] = MappingProxyType({})


def make_plan(
    declared: Iterable[Declared],
    observation: Observation,
    *,
    owner: str,
    prune: bool = True,
    evict: Mapping[str, str] = _NONE,
    agent_lost_state: bool = False,
    doubt: str = "",
) -> Plan:
    """Compares what should be with what Consul has. Only what is on our own agent's node is ever changed.

    `owner` is this inventory's mark: nothing that neither carries it nor is declared is changed. `prune` removes what
    is owned and not declared any more. `evict` is what has been critical too long, by instance ID, and why.
    `agent_lost_state`: what is missing went with the agent's memory. `doubt`: why the observation may be incomplete;
    the plan is made all the same, but `Plan.check_safe` refuses its removals.
    """
    here, wanted = observation.here, {one.spec.id: one for one in declared}
    rules = _Rules(owner=owner, prune=prune, evict=evict, agent_lost_state=agent_lost_state, here=here)
    other_nodes = rules.best_by_id(observation.elsewhere)
    items: list[PlanItem] = []
    statuses: dict[str, SyncStatus] = {}
    for instance_id, want in wanted.items():
        item = rules.declared(want, here.get(instance_id), other_nodes.get(instance_id))
        statuses[instance_id] = item.status if item else SyncStatus.SYNCED
        if item is not None and (want.enabled or item.observed is not None):  # disabled and gone: nothing to tell
            items.append(item)
    for instance_id in here.keys() - wanted.keys():
        item = rules.undeclared_here(here[instance_id])
        statuses[instance_id] = item.status
        items.append(item)
    elsewhere: dict[tuple[str, str], SyncStatus] = {}
    for have in observation.elsewhere:
        if have.id in wanted and have.id not in here and have is other_nodes[have.id]:
            elsewhere[have.node, have.id] = statuses[have.id]
        else:
            item = rules.undeclared_elsewhere(have)
            elsewhere[have.node, have.id] = item.status
            items.append(item)
    return Plan(
        items=tuple(sorted(items, key=lambda item: (item.service, item.id, item.node))),
        owner=owner,
        statuses=statuses,
        elsewhere=elsewhere,
        owned=sum(1 for have in here.values() if have.owner == owner),
        declared=len(wanted),
        doubt=doubt,
    )


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """What to do about one instance; None where it is as it should be."""

    owner: str
    prune: bool
    evict: Mapping[str, str]
    agent_lost_state: bool
    here: Mapping[str, ServiceInstance]

    def declared(self, want: Declared, have: ServiceInstance | None, there: ServiceInstance | None) -> PlanItem | None:
        """A declared instance that is here, or on another node, or nowhere."""
        if have is None and there is not None:
            item = self._present(want, there) if want.enabled else self._disabled(want, there)
            return item and _hands_off(item)
        if have is None:
            return self._missing(want) if want.enabled else _item(Action.LEAVE, SyncStatus.DISABLED, "disabled", want)
        if not want.enabled:
            return self._disabled(want, have)
        if have.id in self.evict and self._may_evict(have):
            return self._evicted(want, have)
        return self._present(want, have)

    def undeclared_here(self, have: ServiceInstance) -> PlanItem:
        """An instance on our agent that nobody has declared."""
        if have.id in self.evict and have.registered_itself and self._may_evict(have):
            return self._evicted(None, have)
        return self._undeclared(have)

    def undeclared_elsewhere(self, have: ServiceInstance) -> PlanItem:
        """An instance on another node that nobody has declared, or that is also declared and found somewhere else."""
        return _hands_off(self._undeclared(have))

    def best_by_id(self, instances: Iterable[ServiceInstance]) -> dict[str, ServiceInstance]:
        """By ID, which is unique on each node only: ours before others', and then the same one each time."""
        best: dict[str, ServiceInstance] = {}
        for have in instances:
            other = best.get(have.id)
            if other is None or (have.owner != self.owner, have.node) < (other.owner != self.owner, other.node):
                best[have.id] = have
        return best

    def _may_evict(self, have: ServiceInstance) -> bool:
        return have.owner == self.owner or (have.registered_itself and not have.owner)

    def _evicted(self, want: Declared | None, have: ServiceInstance) -> PlanItem:
        return _item(Action.EVICT, SyncStatus.EVICTED, self.evict[have.id], want, have, cause=Cause.EVICTED)

    def _undeclared(self, have: ServiceInstance) -> PlanItem:
        def leave(reason: str, cause: Cause) -> PlanItem:
            return _item(Action.LEAVE, SyncStatus.UNMANAGED, reason, None, have, cause=cause)

        if have.registered_itself:
            return leave("registered itself and is not declared", Cause.REGISTERED_ITSELF)
        if not have.owner:
            return leave("registered by someone else and not declared", Cause.FOREIGN)
        if have.owner != self.owner:
            return leave(f"owned by {have.owner!r}", Cause.FOREIGN)
        action, reason = Action.DEREGISTER, "owned but no longer declared"
        if not self.prune:
            action, reason = Action.LEAVE, f"{reason}; prune is off"
        return _item(action, SyncStatus.OUT_OF_SYNC, reason, None, have, cause=Cause.NOT_DECLARED)

    def _disabled(self, want: Declared, have: ServiceInstance) -> PlanItem:
        action, reason, cause = Action.LEAVE, "disabled, and registered by someone else", Cause.FOREIGN
        if have.registered_itself:
            reason = "disabled, but it registers itself: stop the module, or put the instance into maintenance"
            cause = Cause.REGISTERED_ITSELF
        elif have.owner == self.owner or (want.claimed and not have.owner):
            action, reason, cause = Action.DEREGISTER, "disabled", Cause.DISABLED
        return _item(action, SyncStatus.DISABLED, reason, want, have, cause=cause)

    def _missing(self, want: Declared) -> PlanItem:
        if want.evicted and not want.answers:
            return _item(Action.LEAVE, SyncStatus.EVICTED, want.evicted, want, cause=Cause.EVICTED)
        if want.departed and not want.evicted:
            reason = "left by itself; it registers itself again when it starts"
            return _item(Action.LEAVE, SyncStatus.MISSING, reason, want, cause=Cause.LEFT)
        if want.evicted:
            item = _item(Action.REGISTER, SyncStatus.EVICTED, "answers again", want, cause=Cause.ANSWERS_AGAIN)
            item = replace(item, passing=True)
        else:
            reason = "not in Consul any more" if want.claimed else "not in Consul yet"
            item = _item(Action.REGISTER, SyncStatus.MISSING, reason, want, cause=self._why_missing(want))
        twin = self._spellings.get(want.spec.id.lower())
        return item if twin is None else _crowded_out(item, by=twin)

    def _why_missing(self, want: Declared) -> Cause:
        if not want.claimed:
            return Cause.NEVER_REGISTERED
        return Cause.AGENT_LOST_STATE if self.agent_lost_state else Cause.REMOVED

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {instance_id.lower(): instance_id for instance_id in sorted(self.here)}

    def _present(self, want: Declared, have: ServiceInstance) -> PlanItem | None:
        changes = differences(want.spec, have)
        if have.owner not in ("", self.owner):
            reason = f"declared here, but owned by {have.owner!r}"
        elif have.owner or have.registered_itself or want.claimed:
            if not have.owner and not have.registered_itself:  # without our mark it could never be pruned
                changes = (*changes, FieldChange(field="owner", before=None, after=self.owner))
            if not changes:
                return None
            reason, cause = "differs from its declaration", _why_different(want, have)
            return _item(Action.UPDATE, SyncStatus.OUT_OF_SYNC, reason, want, have, cause=cause, changes=changes)
        else:
            reason = "declared here, but someone else registered an instance with this ID"
        return _item(Action.LEAVE, SyncStatus.OUT_OF_SYNC, reason, want, have, cause=Cause.FOREIGN, changes=changes)


def _why_different(want: Declared, have: ServiceInstance) -> Cause:
    if not have.owner:
        if have.registered_itself:
            return Cause.REGISTERED_ITSELF
        return Cause.EDITED if want.applied else Cause.ADOPTED
    # It was right and the declaration is still the same, or it still carries the digest of just this declaration.
    return Cause.EDITED if want.spec.digest in (want.applied, have.digest) else Cause.DECLARATION_CHANGED


def _hands_off(item: PlanItem) -> PlanItem:
    """What would have to be done on another node: its own agent's part, or the next anti-entropy would undo it."""
    if item.action is Action.LEAVE:
        return item
    reason = f"{item.reason}; on node {item.node!r}, whose own agent must change it"
    return replace(item, action=Action.LEAVE, reason=reason, cause=Cause.OTHER_NODE)


def _crowded_out(item: PlanItem, *, by: str) -> PlanItem:
    """To the catalog, though not to the agent, IDs that differ only in case are one: ours would replace the other."""
    reason = f"Consul has {by!r}, and can't keep apart IDs that differ only in upper and lower case"
    return replace(item, action=Action.LEAVE, reason=reason, passing=False)


def differences(spec: ServiceSpec, have: ServiceInstance) -> tuple[FieldChange, ...]:
    """Field by field, what Consul has and what the spec says.

    Consul never shows a check's definition, so a check that differs is known by the digest alone, and its former
    definition is not known. Tags are not compared where Consul lets others change them (EnableTagOverride).
    """
    if _is_equal(spec, have):
        return ()
    shown: list[tuple[str, Any, Any]] = [
        ("name", have.service, spec.name),
        ("address", have.address, spec.address),
        ("port", have.port, spec.port),
        ("weight", have.weight, spec.weight),
    ]
    if not have.tag_override:
        shown.append(("tags", list(have.tags), list(spec.tags)))
    before, after = have.own_meta, spec.meta
    shown += [(f"meta.{key}", before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys())]
    changes = [FieldChange(field=name, before=old, after=new) for name, old, new in shown if old != new]
    if have.digest != spec.digest and not changes:
        changes.append(FieldChange(field="check", before=_former_check(have), after=str(spec.check)))
    return tuple(changes)


def _is_equal(spec: ServiceSpec, have: ServiceInstance) -> bool:
    return (
        have.digest == spec.digest
        and have.port == spec.port
        and have.address == spec.address
        and have.service == spec.name
        and have.weight == spec.weight
        and (have.tags == spec.tags or have.tag_override)
        and have.own_meta == spec.meta
    )


def _former_check(have: ServiceInstance) -> str:
    return "another definition" if META_DIGEST in have.meta else "not registered by us"


def _item(
    action: Action,
    status: SyncStatus,
    reason: str,
    want: Declared | None,
    have: ServiceInstance | None = None,
    *,
    cause: Cause = Cause.DISABLED,
    changes: tuple[FieldChange, ...] = (),
) -> PlanItem:
    return PlanItem(
        action=action,
        service=want.spec.name if want else have.service if have else "",
        id=want.spec.id if want else have.id if have else "",
        reason=reason,
        status=status,
        cause=cause,
        changes=changes,
        spec=want.spec if want else None,
        observed=have,
    )
