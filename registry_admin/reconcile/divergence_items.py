"""Plan items of instances that our agent and the catalog don't agree on. Pure."""

from __future__ import annotations

from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.divergence import Divergence
from registry_admin.reconcile.plan import Action, Cause, Declared, FieldChange, PlanItem, SyncStatus


def diverged_item(declaration: Declared, instance: ServiceInstance, divergence: Divergence) -> PlanItem:
    """Returns the item of an instance that is as declared at the agent, and otherwise in the catalog.

    Registered anew with the present token, it is told to the catalog at once.
    """
    is_confirmed = instance.id in divergence.confirmed
    return PlanItem.about(
        Action.UPDATE if is_confirmed else Action.LEAVE,
        SyncStatus.OUT_OF_SYNC,
        divergence.differences[instance.id].text,
        declaration,
        instance,
        cause=Cause.DIVERGED,
        changes=(FieldChange(field="catalog", before="another", after="as at the agent"),) if is_confirmed else (),
    )


def orphan_item(
    action: Action, instance: ServiceInstance, divergence: Divergence, *, declaration: Declared | None = None
) -> PlanItem:
    """Returns the item of an instance that only the catalog has."""
    is_disabled = declaration is not None and not declaration.enabled
    return PlanItem.about(
        action,
        SyncStatus.DISABLED if is_disabled else SyncStatus.OUT_OF_SYNC,
        f"{divergence.differences[instance.id].text}, so callers are sent to it",
        declaration,
        instance,
        cause=Cause.ORPHANED,
    )
