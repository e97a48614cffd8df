"""The changes that an import makes, as data to print, to review and to write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from django.db import IntegrityError, transaction
from django.utils import timezone
from simple_history.utils import bulk_create_with_history, bulk_update_with_history

from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.bulk_update import BATCH, free_unique_values
from registry_admin.inventory.exchange.errors import DocumentError, Problem
from registry_admin.inventory.models import AuditEvent, Instance, Service
from registry_admin.inventory.models.declared_fields import declared_fields
from registry_admin.inventory.sync import on_commit

ItemAction = Literal["create", "change", "delete"]
Row = Service | Instance


@dataclass(frozen=True, kw_only=True)
class ItemChange:
    """A service or an instance that the import creates, changes or deletes; `fields` are (key, before, after)."""

    action: ItemAction
    kind: str
    service: str
    name: str
    fields: tuple[tuple[str, Any, Any], ...] = ()


@dataclass(kw_only=True)
class Import:
    """The changes that a document makes; `apply` writes them.

    `names`: the services that are synced afterwards, by the names before and after. `label`: what the document is.
    `notes`: what of it can't be carried over.
    """

    label: str = ""
    notes: Sequence[Problem] = ()
    changes: list[ItemChange] = field(default_factory=list)
    unchanged: int = 0
    declared: list[tuple[Service, list[Instance]]] = field(default_factory=list)
    new: dict[Any, list[Any]] = field(default_factory=lambda: {Service: [], Instance: []})
    changed: dict[Any, list[Any]] = field(default_factory=lambda: {Service: [], Instance: []})
    deleted: dict[Any, list[Any]] = field(default_factory=lambda: {Service: [], Instance: []})
    names: set[str] = field(default_factory=set)

    @property
    def digest(self) -> str:
        """The digest of these changes; it proves that the written changes are the reviewed ones."""
        return hashlib.sha256(repr(self.changes).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    @property
    def deletes(self) -> bool:
        """True if the import deletes anything."""
        return any(change.action == "delete" for change in self.changes)

    def count(self, action: ItemAction) -> int:
        """Returns the number of items that are created, changed or deleted."""
        return sum(change.action == action for change in self.changes)

    @property
    def summary(self) -> str:
        """`2 to create, 1 to change, 0 to delete, 5 unchanged`"""
        counts = ", ".join(f"{self.count(action)} to {action}" for action in get_args(ItemAction))
        return f"{counts}, {self.unchanged} unchanged"

    def apply(self) -> None:
        """Writes all changes in one transaction and syncs once. Raises DocumentError on conflicts, with no effect."""
        try:
            with transaction.atomic():
                self.write()
        except IntegrityError as error:  # what collides within the inventory as it was read is refused before
            problem = Problem("document", 0, "somebody has changed the inventory meanwhile: compare again")
            raise DocumentError([problem]) from error
        record_act(AuditEvent.Action.IMPORT, target=", ".join(sorted(self.names)), detail=self.summary)
        if self.names:
            on_commit.sync_on_commit(self.names)

    def write(self) -> None:
        """Writes all changes. Call it within a transaction.

        Values that instances take over from one another are freed before. Services are deleted last, because their
        instances may have moved to others.
        """
        _delete(Instance, self.deleted[Instance])
        free_unique_values(row.pk for row in self.changed[Instance])
        _save(Service, new=self.new[Service], changed=self.changed[Service])
        for row in (*self.new[Instance], *self.changed[Instance]):
            row.service_id = row.service.pk  # a new service has its key only now
        _save(Instance, new=self.new[Instance], changed=self.changed[Instance])
        _delete(Service, self.deleted[Service])


def _delete(model: type[Row], rows: Iterable[Row]) -> None:
    keys = [row.pk for row in rows]
    for start in range(0, len(keys), BATCH):
        model.objects.filter(pk__in=keys[start : start + BATCH]).delete()


def _save(model: type[Row], *, new: list[Any], changed: list[Any]) -> None:
    now = timezone.now()
    for row in changed:
        row.updated_at = now
    names = [field.name for field in declared_fields(model)]
    if issubclass(model, Instance):
        names += ["service", *Instance.RESET_BY_CLEAN]
    if changed:
        bulk_update_with_history(changed, model, [*names, "updated_at"], batch_size=BATCH)
    if new:
        bulk_create_with_history(new, model, batch_size=BATCH)
