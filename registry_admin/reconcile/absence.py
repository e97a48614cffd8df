"""Plan items of declarations that no instance in Consul is. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from registry_admin.consul.snapshot import Snapshot
from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.ownership import Judgement, Ownership, is_same_endpoint
from registry_admin.reconcile.plan import Action, Cause, Declared, PlanItem, SyncStatus


def absent_item(
    declaration: Declared,
    judgements: Iterable[tuple[ServiceInstance, Judgement]],
    snapshot: Snapshot,
    *,
    agent_lost_state: bool,
) -> PlanItem:
    """Returns the item of a declaration that no instance is: `judgements` are those of its ID on other nodes."""
    if not declaration.enabled:
        return PlanItem.about(Action.LEAVE, SyncStatus.DISABLED, "disabled", declaration)
    if declaration.evicted_reason and not declaration.recovered:
        reason = declaration.evicted_reason
        return PlanItem.about(Action.LEAVE, SyncStatus.EVICTED, reason, declaration, cause=Cause.EVICTED)
    failed: ServiceInstance | None = None
    for instance, judgement in judgements:
        if instance.node in snapshot.failed_nodes:
            failed = instance if judgement.ownership is Ownership.OURS else failed
            continue
        if judgement.ownership is Ownership.DOUBT:
            reason, cause = f"on node {instance.node!r}, {judgement.reason}", Cause.DOUBT
        elif is_same_endpoint(instance, declaration):
            reason = f"on node {instance.node!r} at the same address and port, {judgement.reason}"
            cause = Cause.FOREIGN
        else:
            continue
        return PlanItem.about(Action.LEAVE, SyncStatus.OUT_OF_SYNC, reason, declaration, instance, cause=cause)
    return _missing_item(declaration, failed, snapshot, agent_lost_state=agent_lost_state)


def _missing_item(
    declaration: Declared, failed: ServiceInstance | None, snapshot: Snapshot, *, agent_lost_state: bool
) -> PlanItem:
    """Returns the item of a declaration that is nowhere but perhaps on a node whose agent has `failed`."""
    on_failed = f"on node {failed.node!r}, whose agent has failed" if failed else ""
    if failed is not None and failed.registered_itself:
        reason = f"{on_failed}; it registers itself again when it starts"
        return PlanItem.about(Action.LEAVE, SyncStatus.MISSING, reason, declaration, cause=Cause.NODE_FAILED)
    if declaration.departed and not declaration.evicted_reason:
        place = f" on node {declaration.departed_node!r}" if declaration.departed_node else ""
        reason = f"left by itself{place}; it registers itself again when it starts"
        return PlanItem.about(Action.LEAVE, SyncStatus.MISSING, reason, declaration, cause=Cause.LEFT)
    if declaration.evicted_reason:
        reason, cause = "answers again", Cause.RECOVERED
        item = PlanItem.about(Action.REGISTER, SyncStatus.EVICTED, reason, declaration, cause=cause)
        item = replace(item, passing=declaration.passes)
    else:
        cause, reason = _missing_cause(declaration, snapshot, agent_lost_state=agent_lost_state)
        if failed is not None:
            cause, reason = Cause.NODE_FAILED, on_failed
        item = PlanItem.about(Action.REGISTER, SyncStatus.MISSING, reason, declaration, cause=cause)
    item = replace(item, maintenance=declaration.maintenance)
    similar_id = snapshot.local_ids_in_lower_case.get(declaration.spec.id.lower())
    return item if similar_id is None else _blocked_by_id(item, by=similar_id)


def _missing_cause(declaration: Declared, snapshot: Snapshot, *, agent_lost_state: bool) -> tuple[Cause, str]:
    """Returns why a declaration is nowhere in Consul, and the sentence for it."""
    claim = declaration.claim
    if claim is None:
        return Cause.NEVER_REGISTERED, "not in Consul yet"
    node = claim.node.lower()
    if node != snapshot.node.lower() and node not in {name.lower() for name in snapshot.nodes}:
        return Cause.NODE_REPLACED, f"was on node {claim.node!r}, which is no longer there"
    return Cause.AGENT_LOST_STATE if agent_lost_state else Cause.REMOVED, "not in Consul any more"


def _blocked_by_id(item: PlanItem, *, by: str) -> PlanItem:
    """Leaves the instance out, because the catalog (not the agent) takes IDs that differ only in case for one."""
    reason = f"Consul has {by!r}, and can't keep apart IDs that differ only in upper and lower case"
    return replace(item, action=Action.LEAVE, reason=reason, passing=False)
