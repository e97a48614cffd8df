"""Plan items of instances that are left alone, or that only their own module or agent changes. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.diff import diff_fields
from registry_admin.reconcile.ownership import Judgement, Ownership
from registry_admin.reconcile.plan import Action, Cause, Declared, PlanItem, SyncStatus


def conflict_item(declaration: Declared, instance: ServiceInstance, judgement: Judgement) -> PlanItem:
    """Returns the item of a declaration whose ID somebody else's instance has on our agent, or one in doubt."""
    is_foreign = judgement.ownership is Ownership.FOREIGN
    if not declaration.enabled:
        status, reason = SyncStatus.DISABLED, f"disabled, and {judgement.reason}"
    elif instance.is_marked or not is_foreign:
        status, reason = SyncStatus.OUT_OF_SYNC, f"declared here, but {judgement.reason}"
    else:
        status = SyncStatus.OUT_OF_SYNC
        reason = "declared here, but someone else registered an instance with this ID"
    return PlanItem.about(
        Action.LEAVE,
        status,
        reason,
        declaration,
        instance,
        cause=Cause.FOREIGN if is_foreign else Cause.DOUBT,
        changes=diff_fields(declaration.spec, instance) if declaration.enabled else (),
    )


def disabled_item(declaration: Declared, instance: ServiceInstance) -> PlanItem:
    """Returns the item of a disabled instance that is ours."""
    action, reason, cause = Action.DEREGISTER, "disabled", Cause.DISABLED
    if instance.registered_itself:
        action, cause = Action.LEAVE, Cause.REGISTERED_ITSELF
        reason = "disabled, but it registers itself: stop the module, or put the instance into maintenance"
    return PlanItem.about(action, SyncStatus.DISABLED, reason, declaration, instance, cause=cause)


def twin_item(instance: ServiceInstance, judgement: Judgement, failed_nodes: Collection[str]) -> PlanItem:
    """Returns the item of an instance on another node that has a declared ID and isn't the declared one."""
    if judgement.ownership is Ownership.FOREIGN:
        reason = f"{judgement.reason}; it only has the same ID as a declared instance"
        return PlanItem.about(Action.LEAVE, SyncStatus.UNMANAGED, reason, None, instance, cause=Cause.FOREIGN)
    if judgement.ownership is Ownership.DOUBT:
        return PlanItem.about(Action.LEAVE, SyncStatus.OUT_OF_SYNC, judgement.reason, None, instance, cause=Cause.DOUBT)
    if instance.node in failed_nodes:
        reason, cause = f"left over on node {instance.node!r}, whose agent has failed", Cause.NODE_FAILED
    else:
        reason = f"registered on node {instance.node!r} too, whose own agent must remove it"
        cause = Cause.OTHER_NODE
    return PlanItem.about(Action.LEAVE, SyncStatus.OUT_OF_SYNC, reason, None, instance, cause=cause)


def left_to_other_node(item: PlanItem) -> PlanItem:
    """Leaves the change to the other node's agent, because its next anti-entropy would undo ours."""
    if item.action is Action.LEAVE:
        return item
    reason = f"{item.reason}; on node {item.node!r}, whose own agent must change it"
    return replace(item, action=Action.LEAVE, reason=reason, cause=Cause.OTHER_NODE)
