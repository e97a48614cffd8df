"""A declaration whose instance has another ID now: the new one passes before the former one leaves. Pure.

docs/decisions/0018-make-before-break.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from registry_admin.consul.health import Health
from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.plan import Action, Cause, Declared, PlanItem, SyncStatus


class Replacements:
    """Former IDs, the declarations that have taken their place, and which of those are ready.

    The catalog can't hold both of two IDs that differ in case only: there the former one has to leave first.
    """

    def __init__(self, declarations: Mapping[str, Declared]) -> None:
        self._ready: set[str] = set()  # as declared, and passing or in maintenance
        self._successors = {
            former_id: declaration
            for instance_id, declaration in declarations.items()
            for former_id in declaration.replaces
            if former_id not in declarations and former_id.lower() != instance_id.lower()
        }

    def successor(self, former_id: str) -> Declared | None:
        """Returns the declaration that has taken the place of this ID."""
        return self._successors.get(former_id)

    def successor_item(
        self, declaration: Declared, instance: ServiceInstance, stays: Callable[[str], bool]
    ) -> PlanItem | None:
        """Returns the item of an instance that is as declared, and doesn't pass yet under its new ID; else None.

        `stays` tells whether an instance of ours has a former ID.
        """
        if instance.health is Health.PASSING or instance.maintenance:
            self._ready.add(instance.id)
            return None
        former = [key for key in declaration.replaces if key in self._successors and stays(key)]
        if not former:
            return None
        reason = f"doesn't pass yet; until it does, {', '.join(map(repr, former))} stays in its place"
        return PlanItem.about(Action.LEAVE, SyncStatus.OUT_OF_SYNC, reason, declaration, instance, cause=Cause.REPLACED)

    def former_item(self, declaration: Declared, instance: ServiceInstance, *, prune: bool) -> PlanItem:
        """Returns the item of an instance whose declaration has another ID now. It leaves once that one passes."""
        successor = declaration.spec
        action, status, cause = Action.LEAVE, SyncStatus.OUT_OF_SYNC, Cause.REPLACED
        if not declaration.enabled:
            action, status, reason, cause = Action.DEREGISTER, SyncStatus.DISABLED, "disabled", Cause.DISABLED
        elif successor.id not in self._ready:
            reason = f"stays until {successor.id!r}, which takes its place, passes"
        elif prune:
            action, reason = Action.DEREGISTER, f"{successor.id!r} has taken its place"
        else:
            reason = f"{successor.id!r} has taken its place; prune is off"
        item = PlanItem.about(action, status, reason, None, instance, cause=cause)
        return replace(item, successor=successor) if declaration.enabled else item
