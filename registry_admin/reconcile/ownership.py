"""Whose an instance in Consul is: ours, foreign, or in doubt. Pure.

Nothing but what is ours is ever changed or removed: docs/decisions/0020-identity.md has the reasons for each rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from registry_admin.consul.marks import META_MARK, META_RELEASED, Mark, Owner
from registry_admin.consul.types import ServiceInstance
from registry_admin.reconcile.plan import Declared

Endpoint = tuple[str, int]  # address and port
_NOTHING: Mapping[str, frozenset[Endpoint]] = MappingProxyType({})


class Ownership(StrEnum):
    """Whose an instance is. `DOUBT`: perhaps ours; it is neither changed nor removed."""

    OURS = "ours"
    FOREIGN = "foreign"
    DOUBT = "doubt"


class Judgement(NamedTuple):
    """Whose an instance is, with the reason, which is empty for what is ours."""

    ownership: Ownership
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class FormerDeclarations:
    """What this inventory declared once: the addresses and ports that each ID had, and the IDs that were released."""

    endpoints: Mapping[str, frozenset[Endpoint]] = field(default_factory=lambda: _NOTHING)
    released: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Takeover:
    """What a person lets this inventory take over, of the instances that it declares.

    `owner_name`: what carries this owner's name, whichever inventory's it is. `inventory`: what carries the mark of
    the inventory with this UUID (hex). `node`: what carries our own mark, made for another node of this name.
    `restored`: our own, from later than the database.
    """

    owner_name: str = ""
    inventory: str = ""
    node: str = ""
    restored: bool = False

    def covers(self, instance: ServiceInstance, owner: Owner) -> bool:
        """Returns whether the takeover includes this instance."""
        mark = instance.mark
        if instance.has_unreadable_mark:
            return False
        if self.owner_name and instance.owner == self.owner_name:
            return mark is None or mark.inventory != owner.inventory or instance.owner != owner.name
        if mark is None:
            return False
        if mark.inventory != owner.inventory:
            return mark.inventory == self.inventory
        if self.node and mark.place == instance.place._replace(node=self.node).digest:
            return True
        return self.restored and mark.revision > owner.revision and instance.is_in_marked_place


_OURS = Judgement(Ownership.OURS)
_NO_MARK = Judgement(Ownership.FOREIGN, "registered by someone else")


def judge(
    instance: ServiceInstance,
    *,
    owner: Owner,
    declared: Declared | None,
    former: FormerDeclarations,
    is_local: bool = True,
    takeover: Takeover | None = None,
) -> Judgement:
    """Returns whose the instance is. `declared` is the declaration of its ID, if there is one; the first rule counts.

    `is_local`: it is on our agent's node, where a module that registers itself may have what we declare.
    """
    if takeover is not None and declared is not None and takeover.covers(instance, owner):
        return _OURS
    if not instance.is_marked:
        return _judge_unmarked(instance, owner, declared, is_local=is_local)
    mark = instance.mark
    if mark is None:
        if instance.has_unreadable_mark:
            reason = "its mark can't be read, or a newer version of Registry Admin has written it"
            return Judgement(Ownership.DOUBT, reason)
        return _judge_old_mark(instance, owner, declared, former)
    if mark.inventory != owner.inventory:
        return Judgement(Ownership.FOREIGN, f"owned by {instance.owner!r}, the inventory with the ID {mark.inventory}")
    if declared is None and instance.id in former.released:
        return Judgement(Ownership.FOREIGN, "released from this inventory")
    if mark.revision > owner.revision:
        reason = f"Consul knows newer declarations than this database (revision {mark.revision}, here {owner.revision})"
        return Judgement(Ownership.DOUBT, reason)
    if not instance.is_in_marked_place:
        return Judgement(Ownership.DOUBT, "its mark was made for another place: copied, or the node was renamed")
    return _OURS if declared is not None else _judge_undeclared(instance, mark, owner, former)


def _judge_undeclared(instance: ServiceInstance, mark: Mark, owner: Owner, former: FormerDeclarations) -> Judgement:
    """Judges an instance that carries our mark, at its place, and isn't declared."""
    if owner.has_lost(mark.revision):
        return Judgement(Ownership.DOUBT, "it was registered after the backup that the database was restored from")
    if instance.id not in former.endpoints:
        return Judgement(Ownership.DOUBT, "it carries this inventory's mark, but was never declared here")
    return _OURS


def _judge_unmarked(instance: ServiceInstance, owner: Owner, declared: Declared | None, *, is_local: bool) -> Judgement:
    """Judges an instance without a mark: one that a module has registered, or that was edited by hand."""
    if declared is None:
        return _NO_MARK
    if declared.claim is not None and declared.claim.is_at(instance.place):
        if _was_released_since(instance, owner):
            return Judgement(Ownership.DOUBT, "released after the backup that the database was restored from")
        if owner.is_behind and not instance.registered_itself:
            return Judgement(Ownership.DOUBT, "this database was restored, and may have released it since")
        return _OURS
    if instance.registered_itself:
        has_free_claim = is_local and declared.claim is None
        return _OURS if has_free_claim or is_same_endpoint(instance, declared) else _NO_MARK
    return _NO_MARK


def _was_released_since(instance: ServiceInstance, owner: Owner) -> bool:
    """Returns whether this inventory has released the instance in a revision that its database doesn't know."""
    mark = instance.release_mark
    if mark is None or mark.inventory != owner.inventory:
        return False
    return mark.revision > owner.revision or owner.has_lost(mark.revision)


def _judge_old_mark(
    instance: ServiceInstance, owner: Owner, declared: Declared | None, former: FormerDeclarations
) -> Judgement:
    """Judges a mark as it was before inventories had an ID: the owner's name only, which another one may have too."""
    if instance.owner != owner.name:
        return Judgement(Ownership.FOREIGN, f"owned by {instance.owner!r}")
    if declared is None:
        if instance.id in former.released:
            return Judgement(Ownership.FOREIGN, "released from this inventory")
        if (instance.registered_address, instance.port) in former.endpoints.get(instance.id, ()):
            return _OURS
        return Judgement(Ownership.DOUBT, f"owned by {instance.owner!r}, but never declared here as it is")
    if declared.claim is None:
        is_ours = instance.digest == declared.spec.digest
    else:
        is_ours = declared.claim.is_at(instance.place)
    if is_ours:
        return _OURS
    return Judgement(Ownership.DOUBT, f"owned by {instance.owner!r}, but not registered there by this inventory")


def is_same_endpoint(instance: ServiceInstance, declared: Declared) -> bool:
    """Returns whether the instance is the declared service at the declared address and port."""
    spec = declared.spec
    return (instance.service, instance.registered_address, instance.port) == (spec.name, spec.address, spec.port)


def is_issued_by(instance: ServiceInstance, owner: Owner) -> bool:
    """Returns whether the instance carries this inventory's mark, wherever it is and of whichever revision."""
    if instance.mark is not None:
        return instance.mark.inventory == owner.inventory
    return instance.owner == owner.name and not instance.has_unreadable_mark


def newest_revision(instances: Iterable[ServiceInstance], owner: Owner) -> int:
    """Returns the highest revision of this inventory that Consul knows; 0 if it knows none."""
    marks = (
        instance.mark if instance.is_in_marked_place else instance.release_mark
        for instance in instances
        if META_MARK in instance.meta or META_RELEASED in instance.meta
    )
    return max((mark.revision for mark in marks if mark is not None and mark.inventory == owner.inventory), default=0)
