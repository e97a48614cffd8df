"""The planner: compares declarations with a snapshot of Consul, and makes a plan.

Pure: the same declarations and the same snapshot give the same plan, in whatever order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from registry_admin.consul.health import Health
from registry_admin.consul.marks import Owner, Place
from registry_admin.consul.snapshot import Snapshot
from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.absence import absent_item
from registry_admin.reconcile.diff import diff_fields, difference_cause
from registry_admin.reconcile.divergence import NO_DIVERGENCE, Divergence
from registry_admin.reconcile.divergence_items import diverged_item, orphan_item
from registry_admin.reconcile.left_alone import conflict_item, disabled_item, left_to_other_node, twin_item
from registry_admin.reconcile.ownership import (
    FormerDeclarations,
    Judgement,
    Ownership,
    Takeover,
    judge,
)
from registry_admin.reconcile.plan import Action, Cause, Declared, FieldChange, Plan, PlanItem, SyncStatus
from registry_admin.reconcile.replacement import Replacements

_NONE: Mapping[str, str] = MappingProxyType({})
_NEVER_DECLARED = FormerDeclarations()


def make_plan(
    declared: Iterable[Declared],
    snapshot: Snapshot,
    *,
    owner: Owner,
    former: FormerDeclarations = _NEVER_DECLARED,
    takeover: Takeover | None = None,
    prune: bool = True,
    evict: Mapping[str, str] = _NONE,
    agent_lost_state: bool = False,
    divergence: Divergence = NO_DIVERGENCE,
    token_changed: bool = False,
    doubt: str = "",
) -> Plan:
    """Returns the plan that makes Consul match the declarations. It changes instances on our own agent's node only.

    `owner` is this inventory: what is foreign or in doubt by its marks (`ownership.judge`) is never changed. `former`
    has what was declared once. `takeover`: what a person lets the inventory take over. `prune` removes owned instances
    that are no longer declared. `evict` has the instances of our node that have been critical for too long, by ID, with
    the reason. `agent_lost_state`: missing instances went with the agent's memory. `divergence`: where the catalog has
    our node otherwise than its agent. `token_changed`: what is ours is to be registered anew, with the new token.
    `doubt`: reason why the snapshot may be incomplete or the declarations out of date; the brake then holds the plan's
    removals.
    """
    declarations = {declaration.spec.id: declaration for declaration in declared}
    remote: dict[str, list[ServiceInstance]] = {}
    for instance in snapshot.remote:
        remote.setdefault(instance.id, []).append(instance)
    planner = _Planner(
        snapshot=snapshot,
        remote=remote,
        owner=owner,
        former=former,
        takeover=takeover,
        prune=prune,
        evict=evict,
        agent_lost_state=agent_lost_state,
        divergence=divergence,
        token_changed=token_changed,
        replacements=Replacements(declarations),
    )
    for declaration in declarations.values():
        planner.add_declared(declaration)
    for instance_id in snapshot.local.keys() - declarations.keys():
        planner.add_undeclared(snapshot.local[instance_id])
    for instance_id in remote.keys() - declarations.keys():
        for instance in remote[instance_id]:
            planner.add_undeclared(instance)
    for instance_id in divergence.orphans.keys() - declarations.keys():
        planner.add_orphan(divergence.orphans[instance_id])
    return Plan(
        items=tuple(sorted(planner.items, key=lambda item: (item.service, item.id, item.node))),
        owner=owner,
        statuses=planner.statuses,
        observed=planner.observed,
        present=planner.present,
        disowned=frozenset(planner.disowned),
        declared=len(declarations),
        doubt=doubt,
    )


@dataclass(kw_only=True)
class _Planner:
    """Collects the items and statuses of a plan, one declaration or undeclared instance at a time."""

    snapshot: Snapshot
    remote: Mapping[str, Sequence[ServiceInstance]]
    owner: Owner
    former: FormerDeclarations
    takeover: Takeover | None
    prune: bool
    evict: Mapping[str, str]
    agent_lost_state: bool
    divergence: Divergence
    token_changed: bool
    replacements: Replacements
    items: list[PlanItem] = field(default_factory=list)
    statuses: dict[str, SyncStatus] = field(default_factory=dict)
    observed: dict[Place, SyncStatus] = field(default_factory=dict)
    present: dict[str, ServiceInstance] = field(default_factory=dict)
    disowned: set[Place] = field(default_factory=set)

    @cached_property
    def rewrites_marks(self) -> bool:
        """True if marks that are there may be taken over: by a person's order, or after a restore."""
        return self.takeover is not None or self.owner.lost_until > 0

    def add_declared(self, declaration: Declared) -> None:
        """Adds what follows for a declaration, and for every instance with its ID."""
        instance_id = declaration.spec.id
        local, remote = self.snapshot.local.get(instance_id), self.remote.get(instance_id)
        if local is None or remote:
            self._add_anywhere(declaration, local, remote or ())
            return
        judgement = judge(local, owner=self.owner, declared=declaration, former=self.former, takeover=self.takeover)
        if judgement.ownership is Ownership.OURS:
            self._add_present(declaration, local, self._local(declaration, local))
        else:
            self._disown(local)
            self._add_stated(declaration, conflict_item(declaration, local, judgement))

    def _add_anywhere(
        self, declaration: Declared, local: ServiceInstance | None, remote: Sequence[ServiceInstance]
    ) -> None:
        """Adds what follows for a declaration with instances on several nodes, or on none."""
        judgements = [(instance, self._judge(instance, declaration)) for instance in remote]
        judgement = None if local is None else self._judge(local, declaration)
        ours_here = local if judgement is None or judgement.ownership is Ownership.OURS else None
        present, item = self._present_instance(declaration, ours_here, judgements), None
        if present is not None:
            if present is local:
                item = self._local(declaration, present)
            else:
                item = disabled_item(declaration, present) if not declaration.enabled else None
                item = item or self._compared(declaration, present)
                item = item and left_to_other_node(item)
            self._add_present(declaration, present, item)
        elif local is not None and judgement is not None:
            item = conflict_item(declaration, local, judgement)
            self._add_stated(declaration, item)
        else:
            item = absent_item(declaration, judgements, self.snapshot, agent_lost_state=self.agent_lost_state)
            item = self._orphaned(declaration, item) or item
            self._add_stated(declaration, item)
        if local is not None and present is not None and present is not local and judgement is not None:
            self._add(self._twin_here(declaration, local, judgement, present))
        for instance, conclusion in judgements:
            if instance is not present and (item is None or instance is not item.observed):
                self._add(twin_item(instance, conclusion, self.snapshot.failed_nodes))

    def _add_present(self, declaration: Declared, instance: ServiceInstance, item: PlanItem | None) -> None:
        """Adds a declaration with the instance that is the declared one; without an item it is as declared."""
        self.present[instance.id] = instance
        if item is not None:
            self._add_stated(declaration, item)
        else:
            self.statuses[instance.id] = self.observed[instance.place] = SyncStatus.SYNCED

    def _add_stated(self, declaration: Declared, item: PlanItem) -> None:
        self.statuses[declaration.spec.id] = item.status
        if item.observed is not None:
            self._add(item)
        elif declaration.enabled:  # disabled and gone: nothing to say
            self.items.append(item)

    def add_undeclared(self, instance: ServiceInstance) -> None:
        """Adds what follows for an instance that isn't declared."""
        judgement, successor = self._judge(instance, None), self.replacements.successor(instance.id)
        if successor is not None and judgement.ownership is Ownership.OURS and not instance.registered_itself:
            item = self.replacements.former_item(successor, instance, prune=self.prune)
        else:
            item = self._undeclared(instance, judgement)
        self._add(item if self._is_local(instance) else left_to_other_node(item))

    def add_orphan(self, instance: ServiceInstance) -> None:
        """Adds what follows for an instance that isn't declared, and that only the catalog has."""
        if instance.is_marked and self._judge(instance, None).ownership is Ownership.OURS:
            action = Action.DEREGISTER if self.prune and instance.id in self.divergence.confirmed else Action.LEAVE
            self._add(orphan_item(action, instance, self.divergence))

    def _orphaned(self, declaration: Declared, absent: PlanItem) -> PlanItem | None:
        """Returns the item of a declared instance that is to be out of Consul, and that the catalog still shows."""
        instance = self.divergence.orphans.get(declaration.spec.id)
        if instance is None or absent.action is not Action.LEAVE or absent.observed is not None:
            return None
        if declaration.enabled and absent.cause is not Cause.EVICTED:
            return None
        if self._judge(instance, declaration).ownership is not Ownership.OURS:
            return None
        action = Action.DEREGISTER if instance.id in self.divergence.confirmed else Action.LEAVE
        return orphan_item(action, instance, self.divergence, declaration=declaration)

    def _add(self, item: PlanItem) -> None:
        self.items.append(item)
        if item.observed is not None:
            self.observed[item.observed.place] = item.status

    def _judge(self, instance: ServiceInstance, declaration: Declared | None) -> Judgement:
        judgement = judge(
            instance,
            owner=self.owner,
            declared=declaration,
            former=self.former,
            is_local=self._is_local(instance),
            takeover=self.takeover,
        )
        if judgement.ownership is not Ownership.OURS:
            self._disown(instance)
        return judgement

    def _disown(self, instance: ServiceInstance) -> None:
        if instance.is_marked:
            self.disowned.add(instance.place)

    def _is_local(self, instance: ServiceInstance) -> bool:
        return instance.node == self.snapshot.node

    def _present_instance(
        self,
        declaration: Declared,
        ours_here: ServiceInstance | None,
        judgements: Iterable[tuple[ServiceInstance, Judgement]],
    ) -> ServiceInstance | None:
        """Returns the instance that is the declared one: the one at the claimed place, else our agent's, else another.

        What is on a node whose agent has failed is not present.
        """
        candidates = [
            instance
            for instance, judgement in judgements
            if judgement.ownership is Ownership.OURS and instance.node not in self.snapshot.failed_nodes
        ]
        claim = declaration.claim

        def rank(instance: ServiceInstance) -> tuple[bool, bool, str]:
            is_claimed = claim is not None and claim.is_at(instance.place)
            return not is_claimed, not self._is_local(instance), instance.node

        return min([*candidates, *([ours_here] if ours_here else [])], key=rank, default=None)

    def _local(self, declaration: Declared, instance: ServiceInstance) -> PlanItem | None:
        """Returns the item of a declared instance on our agent; None where nothing differs."""
        if not declaration.enabled:
            return disabled_item(declaration, instance)
        if instance.id in self.evict and (instance.is_marked or instance.registered_itself):
            return self._evicted(declaration, instance)
        return self._compared(declaration, instance)

    def _evicted(self, declaration: Declared | None, instance: ServiceInstance) -> PlanItem:
        return PlanItem.about(
            Action.EVICT, SyncStatus.EVICTED, self.evict[instance.id], declaration, instance, cause=Cause.EVICTED
        )

    def _undeclared(self, instance: ServiceInstance, judgement: Judgement) -> PlanItem:
        def leave(reason: str, cause: Cause, status: SyncStatus = SyncStatus.UNMANAGED) -> PlanItem:
            return PlanItem.about(Action.LEAVE, status, reason, None, instance, cause=cause)

        if instance.registered_itself:
            is_foreign = instance.is_marked and judgement.ownership is not Ownership.OURS
            if instance.id in self.evict and self._is_local(instance) and not is_foreign:
                return self._evicted(None, instance)
            return leave("registered itself and is not declared", Cause.REGISTERED_ITSELF)
        if judgement.ownership is Ownership.DOUBT:
            return leave(judgement.reason, Cause.DOUBT, SyncStatus.OUT_OF_SYNC)
        if judgement.ownership is Ownership.FOREIGN:
            undeclared = "" if instance.is_marked else " and not declared"
            return leave(f"{judgement.reason}{undeclared}", Cause.FOREIGN)
        action, reason = Action.DEREGISTER, "owned but no longer declared"
        if not self.prune:
            action, reason = Action.LEAVE, f"{reason}; prune is off"
        return PlanItem.about(action, SyncStatus.OUT_OF_SYNC, reason, None, instance, cause=Cause.NOT_DECLARED)

    def _stays(self, former_id: str) -> bool:
        """Returns whether an instance of ours on our agent has this ID, and no declaration."""
        instance = self.snapshot.local.get(former_id)
        return (
            instance is not None
            and not instance.registered_itself
            and self._judge(instance, None).ownership is Ownership.OURS
        )

    def _twin_here(
        self, declaration: Declared, instance: ServiceInstance, judgement: Judgement, present: ServiceInstance
    ) -> PlanItem:
        """Returns the item of an instance on our agent whose declaration is present on another node.

        What is ours is removed here once it passes there.
        """
        if judgement.ownership is not Ownership.OURS:
            return self._undeclared(instance, judgement)
        action, reason = Action.LEAVE, f"declared on node {present.node!r} now"
        if instance.registered_itself:
            reason += ", and registers itself here too"
        elif present.health is Health.PASSING and declaration.enabled and self.prune:
            action, reason = Action.DEREGISTER, f"{reason}, and passes there"
        return PlanItem.about(action, SyncStatus.OUT_OF_SYNC, reason, None, instance, cause=Cause.OTHER_NODE)

    def _compared(self, declaration: Declared, instance: ServiceInstance) -> PlanItem | None:
        """Returns the item of an instance that is ours; None where it is as declared."""
        changes = diff_fields(declaration.spec, instance)
        mark_change = self._mark_change(instance) if self.rewrites_marks or not instance.is_marked else None
        if mark_change is not None:
            changes = (*changes, mark_change)
        maintenance = declaration.maintenance if declaration.lost_maintenance and not instance.maintenance else ""
        if mark_change is not None and instance.is_marked:
            reason, cause = "taken over", Cause.TAKEN_OVER
        elif changes:
            reason, cause = "differs from its declaration", difference_cause(declaration, instance)
        elif self.token_changed and not instance.registered_itself and self._is_local(instance):
            reason, cause = "registered with a former token", Cause.TOKEN_CHANGED
            changes = (FieldChange(field="token", before="a former one", after="the present one"),)
        elif instance.id in self.divergence.differences and self._is_local(instance):
            return diverged_item(declaration, instance, self.divergence)
        elif maintenance:
            reason, cause = "lost its maintenance mode, which nobody has ended", Cause.MAINTENANCE_LOST
        else:
            if not declaration.replaces:
                return None
            return self.replacements.successor_item(declaration, instance, self._stays)
        if maintenance:
            changes = (*changes, FieldChange(field="maintenance", before=None, after=maintenance))
        action = Action.UPDATE
        if instance.uncarried:
            action, reason = Action.LEAVE, f"{reason}, but {instance.uncarried_text}"
        item = PlanItem.about(
            action, SyncStatus.OUT_OF_SYNC, reason, declaration, instance, cause=cause, changes=changes
        )
        return replace(item, maintenance=maintenance)

    def _mark_change(self, instance: ServiceInstance) -> FieldChange | None:
        """Returns the change of the mark, where it has none or is taken over; any other change rewrites it anyway."""
        if not instance.is_marked and not instance.registered_itself:  # without our mark it could never be pruned
            return FieldChange(field="owner", before=None, after=self.owner.name)
        mark = instance.mark
        is_covered = self.takeover is not None and self.takeover.covers(instance, self.owner)
        if not is_covered and (mark is None or not self.owner.has_lost(mark.revision)):
            return None
        before = f"{instance.owner} ({mark})" if mark else instance.owner
        after = f"{self.owner.name} ({self.owner.inventory})"
        return FieldChange(field="owner", before=before, after=after)
