"""Removals from Consul that follow from a change of the declarations: foreseen, judged by the brake, and confirmed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from django.db.models import Q
from django.utils import timezone

from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.bulk_update import BATCH
from registry_admin.inventory.models import Instance, ObservedInstance, RemovalApproval
from registry_admin.inventory.selectors.removals import brake_for_declarations
from registry_admin.reconcile.brake import Approval, Member, Removal
from registry_admin.reconcile.plan import Cause

MAY_REMOVE = "inventory.prune_service"
NO_RIGHT = "That takes the permission “{permission}”, because it would remove from Consul: {names}."
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class RemovalPreview:
    """What would leave Consul, and why the brake would hold it; `held` is empty where it wouldn't."""

    removals: tuple[Removal, ...]
    held: str = ""

    @property
    def ids(self) -> list[str]:
        """The instance IDs, sorted."""
        return sorted({removal.id for removal in self.removals})

    @property
    def names(self) -> str:
        """The first few instance IDs, as a text."""
        more = f" and {len(self.ids) - _LISTED} more" if len(self.ids) > _LISTED else ""
        return ", ".join(self.ids[:_LISTED]) + more

    @property
    def digest(self) -> str:
        """Digest of the IDs: only the list that was reviewed is removed."""
        return hashlib.sha256("\n".join(self.ids).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    @property
    def phrase(self) -> str:
        """The text that confirms the number of removals, where the brake would hold them; else empty."""
        return f"remove {len(self.ids)}" if self.held else ""

    @property
    def no_right(self) -> str:
        """What to tell somebody who may not remove from Consul."""
        return NO_RIGHT.format(permission="Can remove from Consul what is no longer declared", names=self.names)

    def joined_with(self, *others: RemovalPreview) -> RemovalPreview:
        """Returns this and the others as one."""
        previews = [self, *others]
        reasons = dict.fromkeys(preview.held for preview in previews if preview.held)
        removals = tuple(removal for preview in previews for removal in preview.removals)
        return RemovalPreview(removals=removals, held="; ".join(reasons))

    def is_confirmed_by(self, typed: str) -> bool:
        """Returns whether the typed text confirms the removals; none is needed where the brake holds nothing."""
        return not self.held or " ".join(typed.split()).lower() == self.phrase


def preview_removals(
    leaving: Collection[str], *, named: bool = True, arriving: Collection[tuple[str, str]] = ()
) -> RemovalPreview:
    """Returns what would leave Consul once these instances, by ID, are no longer declared or no longer enabled.

    Asks the mirror, not Consul. `named`: a person has chosen just these, or their service; without it, a service that
    would leave as a whole is held too. `arriving`: service and ID of instances that the same change
    declares. What registers itself, or is somebody else's, doesn't leave by our doing.
    """
    removals = tuple(_in_consul(leaving))
    if not removals:
        return RemovalPreview(removals=())
    brake = brake_for_declarations(leaving, arriving=[Member(service, "", key) for service, key in arriving])
    if not named:
        brake = replace(brake, approvals={})
    reasons = dict.fromkeys(brake.held(removals).values())
    return RemovalPreview(removals=removals, held="; ".join(reasons))


def preview_renaming(renamed: Collection[str], *, name: str, named: bool = False) -> RemovalPreview:
    """Returns which of these instances would leave their service in Consul for the service `name`.

    `named`: as for `preview_removals`.
    """
    found = [removal for removal in _in_consul(renamed) if removal.service.lower() != name.lower()]
    removals = tuple(removal._replace(renamed=True) for removal in found)
    if not removals:
        return RemovalPreview(removals=())
    brake = brake_for_declarations([removal.id for removal in removals])
    if not named:
        brake = replace(brake, approvals={})
    return RemovalPreview(removals=removals, held="; ".join(dict.fromkeys(brake.held(removals).values())))


def ids_of_services(services: Iterable[int]) -> list[str]:
    """Returns the instance IDs of these services, by their keys, sorted. Former ones that may still be there count."""
    instances = Instance.objects.filter(service__in=list(services)).values_list("consul_id", "replaces")
    return sorted({key for consul_id, former_ids in instances for key in (consul_id, *former_ids)})


def approve_removals(consul_ids: Collection[str], *, counted: bool = False) -> None:
    """Records that the actor has named these instances, or (`counted`) confirmed their number.

    To be called within the transaction that changes the declarations, before the run that follows.
    """
    if not consul_ids:
        return
    actor, now = current_actor().name[:150], timezone.now()
    approval = Approval.COUNTED if counted else Approval.NAMED
    rows = [
        RemovalApproval(consul_id=consul_id, approval=approval, actor=actor, approved_at=now)
        for consul_id in sorted(set(consul_ids))
    ]
    RemovalApproval.objects.bulk_create(
        rows,
        batch_size=BATCH,
        update_conflicts=True,
        unique_fields=["consul_id"],
        update_fields=["approval", "actor", "approved_at"],
    )


def withdraw_approvals(consul_ids: Collection[str]) -> None:
    """Forgets the confirmations of instances that were removed, or are declared again."""
    keys = sorted(set(consul_ids))
    for start in range(0, len(keys), BATCH):
        RemovalApproval.objects.filter(consul_id__in=keys[start : start + BATCH]).delete()


def _in_consul(consul_ids: Collection[str]) -> list[Removal]:
    """Returns those of the instances that are in Consul and that we would remove, from the mirror."""
    is_ours = Q(owned=True) | Q(owner="", declared=True)
    rows = (
        ObservedInstance.objects.filter(is_ours, registered_itself=False)
        .exclude(sync_cause__in=[Cause.FOREIGN, Cause.DOUBT])
        .order_by()
    )
    removals, ordered = [], sorted(set(consul_ids))
    for start in range(0, len(ordered), BATCH):
        found = rows.filter(consul_id__in=ordered[start : start + BATCH])
        for service, node, consul_id, health in found.values_list("service_name", "node", "consul_id", "health"):
            removals.append(Removal(service, node, consul_id, is_up=health != "critical"))
    return removals
