"""Takes a document into the inventory: first what it would change, item by item, and then all of it or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import IntegrityError, models, transaction
from django.utils import timezone
from simple_history.utils import bulk_create_with_history, bulk_update_with_history

from registry_admin.inventory import services
from registry_admin.inventory.bulk import BATCH
from registry_admin.inventory.exchange.reading import MAX_PROBLEMS, DocumentError, Entry, Problem, read_document
from registry_admin.inventory.models import Instance, Service

SERVICE_FIELDS = (
    "name", "description", "owner", "documentation_url", "tags", "meta", "enabled", "check_kind", "check_path",
    "check_scheme", "check_interval", "check_timeout", "deregister_after",
)  # fmt: skip
INSTANCE_FIELDS = ("address", "port", "consul_id", "weight", "extra_tags", "extra_meta", "enabled")
_FOLLOWS = ("claimed", "departed", "applied_digest", "evicted_at", "evicted_reason")  # what cleaning an instance resets
_BOOLEANS, _NUMBERS = ("enabled",), ("port", "weight")


@dataclass(frozen=True, kw_only=True)
class ItemChange:
    """A service or an instance that importing creates, changes or deletes: (field, before, after) for what differs."""

    action: str
    kind: str
    service: str
    name: str
    fields: tuple[tuple[str, Any, Any], ...] = ()


@dataclass(kw_only=True)
class Import:
    """What a document would change. `apply` does it."""

    changes: list[ItemChange] = field(default_factory=list)
    unchanged: int = 0
    declared: list[tuple[Service, list[Instance]]] = field(default_factory=list)
    new: dict[Any, list[Any]] = field(default_factory=lambda: {Service: [], Instance: []})
    changed: dict[Any, list[Any]] = field(default_factory=lambda: {Service: [], Instance: []})
    gone: dict[Any, list[Any]] = field(default_factory=lambda: {Service: [], Instance: []})
    names: set[str] = field(default_factory=set)

    @property
    def digest(self) -> str:
        """Of just these changes: what was reviewed is what is written."""
        return hashlib.sha256(repr(self.changes).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    @property
    def deletes(self) -> bool:
        """Whether it takes anything away."""
        return any(change.action == "delete" for change in self.changes)

    def count(self, action: str) -> int:
        """How many items are created, changed or deleted."""
        return sum(change.action == action for change in self.changes)

    @property
    def summary(self) -> str:
        """`2 to create, 1 to change, 0 to delete, 5 unchanged`"""
        counts = ", ".join(f"{self.count(action)} to {action}" for action in ("create", "change", "delete"))
        return f"{counts}, {self.unchanged} unchanged"

    def apply(self) -> None:
        """Writes all of it in one transaction, and syncs once. Raises DocumentError: then nothing is written."""
        try:
            with transaction.atomic():
                self._write()
        except IntegrityError as error:
            problem = Problem("document", 0, "somebody has changed the inventory meanwhile: look at it again")
            raise DocumentError([problem]) from error

    def _write(self) -> None:
        for model in (Instance, Service):  # first, so that what is freed can be taken
            keys = [row.pk for row in self.gone[model]]
            for start in range(0, len(keys), BATCH):
                model.objects.filter(pk__in=keys[start : start + BATCH]).delete()
        now = timezone.now()
        for model, names in ((Service, SERVICE_FIELDS), (Instance, (*INSTANCE_FIELDS, *_FOLLOWS))):
            for row in self.changed[model]:
                row.updated_at = now
            if self.changed[model]:
                bulk_update_with_history(self.changed[model], model, [*names, "updated_at"], batch_size=BATCH)
            if model is Instance:
                for row in self.new[Instance]:
                    row.service_id = row.service.pk  # which has one only now
            if self.new[model]:
                bulk_create_with_history(self.new[model], model, batch_size=BATCH)
        if self.names:
            services.sync_when_committed(self.names)


def prepare_import(text: str, *, delete_others: bool = False) -> Import:
    """Compares a document with the inventory. Nothing is written. Raises DocumentError with every problem.

    Services are matched by name and instances by ID, upper and lower case alike. What the document doesn't name stays,
    unless `delete_others`.
    """
    entries = read_document(text)
    known = {row.name.lower(): row for row in Service.objects.all()}
    instances: dict[str, Instance] = {}
    for row in Instance.objects.all():
        instances[row.consul_id.lower()] = row
    by_pk = {row.pk: row for row in known.values()}
    for row in instances.values():
        row.service = by_pk[row.service_id]
    return _Comparison(known, instances, delete_others=delete_others).compare(entries)


class _Comparison:
    """The document's entries beside the inventory's rows."""

    def __init__(self, known: Mapping[str, Service], instances: Mapping[str, Instance], *, delete_others: bool) -> None:
        self._services, self._instances = known, instances
        self._delete_others = delete_others
        self._problems: list[Problem] = []
        self._named: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._kept: set[int] = set()
        self._found = Import()

    def compare(self, entries: Iterable[Entry]) -> Import:
        for entry in entries:
            self._service(entry)
        self._others()
        if self._problems:
            raise DocumentError(self._problems[:MAX_PROBLEMS])
        return self._found

    def _service(self, entry: Entry) -> None:
        name = entry.fields.get("name")
        key = name.lower() if isinstance(name, str) else ""
        if key in self._named:
            self._problems.append(entry.problem(f"the same service as {self._named[key]}", "name"))
            return
        self._named[key] = entry.where
        row = self._services.get(key) or Service()
        before = _values(row, SERVICE_FIELDS) if row.pk else {}
        ok = self._fill(row, entry, SERVICE_FIELDS)
        self._note(row, before, SERVICE_FIELDS, ok=ok)
        rows = [self._instance(row, one, service_is_ok=ok) for one in entry.instances]
        places: dict[tuple[str, int], str] = {}
        for one, instance in zip(entry.instances, rows, strict=True):
            place = (instance.address, instance.port)
            if place in places:
                self._problems.append(one.problem(f"the same address and port as {places[place]}", "address"))
            places[place] = one.where
        self._found.declared.append((row, rows))

    def _instance(self, service: Service, entry: Entry, *, service_is_ok: bool) -> Instance:
        row = self._match(service, entry)
        before = _values(row, INSTANCE_FIELDS) if row.pk else {}
        row.service = service
        ok = self._fill(row, entry, INSTANCE_FIELDS)
        if ok and service_is_ok:
            key = row.consul_id.lower()
            other = self._instances.get(key)
            if key in self._ids:
                self._problems.append(entry.problem(f"the same service ID as {self._ids[key]}", "id"))
            elif other is not None and other.pk != row.pk and not self._is_gone(other):
                self._problems.append(entry.problem(f"{other.service.name} has an instance of this ID", "id"))
            self._ids[key] = entry.where
        if row.pk:
            self._kept.add(row.pk)
        self._note(row, before, INSTANCE_FIELDS, ok=ok and service_is_ok)
        return row

    def _match(self, service: Service, entry: Entry) -> Instance:
        """The row that it is about: by its ID, else by its address and port."""
        wanted = entry.fields.get("consul_id")
        if isinstance(wanted, str) and wanted:
            row = self._instances.get(wanted.lower())
            return row if row is not None and row.service_id == service.pk and service.pk else Instance()
        place = entry.fields.get("address"), entry.fields.get("port")
        same = (one for one in self._instances.values() if one.service_id == service.pk and service.pk)
        return next((one for one in same if (one.address, one.port) == place), Instance())

    def _fill(self, row: Any, entry: Entry, names: Iterable[str]) -> bool:
        """Puts the entry's values (and defaults for the rest) into the row; whether all of them are valid."""
        problems = len(self._problems)
        for name in names:
            model_field = row._meta.get_field(name)  # noqa: SLF001 - Django's documented API
            default = row.consul_id if name == "consul_id" and row.pk else model_field.get_default()
            value = entry.fields.get(name, default)
            if (wrong := _wrong_type(name, value, model_field)) is not None:
                self._problems.append(entry.problem(wrong, _shown_name(name)))
            else:
                setattr(row, name, value)
        if len(self._problems) > problems:
            return False
        try:
            row.clean()
            row.clean_fields(exclude=["service"])
        except ValidationError as error:
            for name, texts in error.message_dict.items():
                shown = "" if name == NON_FIELD_ERRORS else _shown_name(name)
                self._problems += [entry.problem(text, shown) for text in texts]
        return len(self._problems) == problems

    def _note(self, row: Any, before: Mapping[str, Any], names: Iterable[str], *, ok: bool) -> None:
        if not ok:
            return
        after = _values(row, names)
        kind, service = ("instance", row.service.name) if isinstance(row, Instance) else ("service", row.name)
        name = str(row)
        if not before:
            shown = tuple((_shown_name(key), None, value) for key, value in after.items() if value not in ("", [], {}))
            self._found.changes.append(ItemChange(action="create", kind=kind, service=service, name=name, fields=shown))
            self._found.new[type(row)].append(row)
        elif differing := tuple(
            (_shown_name(key), before[key], value) for key, value in after.items() if before[key] != value
        ):
            change = ItemChange(action="change", kind=kind, service=service, name=name, fields=differing)
            self._found.changes.append(change)
            self._found.changed[type(row)].append(row)
            self._found.names.update({row.former_name} - {""} if isinstance(row, Service) else ())
        else:
            self._found.unchanged += 1
            return
        self._found.names.add(service)

    def _is_gone(self, row: Instance) -> bool:
        return self._delete_others and row.service.name.lower() not in self._named

    def _others(self) -> None:
        if not self._delete_others:
            return
        for key, row in sorted(self._services.items()):
            if key not in self._named:
                self._found.changes.append(ItemChange(action="delete", kind="service", service=row.name, name=row.name))
                self._found.gone[Service].append(row)
        for instance in self._instances.values():
            if instance.pk not in self._kept:
                service = instance.service.name
                change = ItemChange(action="delete", kind="instance", service=service, name=instance.consul_id)
                self._found.changes.append(change)
                if service.lower() in self._named:  # else it goes with its service
                    self._found.gone[Instance].append(instance)


def _values(row: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _wrong_type(name: str, value: Any, model_field: Any) -> str | None:
    """Why a value can't be what is meant, before anything is made of it."""
    if name in _BOOLEANS:
        return None if isinstance(value, bool) else "must be true or false"
    if name in _NUMBERS:
        return (
            None if isinstance(value, int) and not isinstance(value, bool) else "must be a whole number without quotes"
        )
    if isinstance(model_field, models.JSONField):
        is_list = isinstance(model_field.get_default(), list)
        if is_list:
            fits = isinstance(value, list) and all(isinstance(one, str) for one in value)
            return None if fits else "must be a list of texts"
        fits = isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        return None if fits else "must be pairs of texts; put numbers in quotes"
    if not isinstance(value, str):
        return "must be text; put it in quotes"
    if "\x00" in value:
        return "must not hold NUL"
    return None


def _shown_name(name: str) -> str:
    """As the document calls it."""
    renamed = {
        "consul_id": "id",
        "extra_tags": "tags",
        "extra_meta": "meta",
        "deregister_after": "check.deregister_after",
    }
    return renamed.get(name, name.replace("check_", "check.", 1) if name.startswith("check_") else name)
