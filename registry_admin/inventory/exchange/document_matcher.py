"""Compares a document's entries with the inventory's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

from registry_admin.errors import InvalidValueError
from registry_admin.inventory.exchange.changes import Import, ItemChange, Row
from registry_admin.inventory.exchange.entries import Entry
from registry_admin.inventory.exchange.errors import DocumentError, Problem
from registry_admin.inventory.exchange.limits import MAX_PROBLEMS
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.models.declared_fields import DeclaredField, declared_fields
from registry_admin.inventory.models.secrets import hidden, hidden_change

FieldValues = tuple[str, Any, Any]  # its key, and the values before and after
_SECRET_KEYS = {field.key for model in (Service, Instance) for field in declared_fields(model) if field.is_secret}
Endpoint = tuple[str, Any, Any]  # service in lower case, address, port


class DocumentMatcher:
    """Matches a document's entries with rows, fills the rows, and finds what they would collide with.

    A service is matched by its name, ignoring case. An instance is matched by the ID that its entry gives, wherever
    the document or `delete_unlisted` lets it move from; else by its address and port within the service.
    """

    def __init__(self, services: Iterable[Service], instances: Iterable[Instance], *, delete_unlisted: bool) -> None:
        self._services = {row.name.lower(): row for row in services}
        self._instances = {row.consul_id.lower(): row for row in instances}
        self._by_endpoint = {_endpoint(row.service, row): row for row in self._instances.values()}
        self._delete_unlisted = delete_unlisted
        self._problems: list[Problem] = []
        self._named: dict[str, str] = {}
        self._by_given_id: dict[str, Instance] = {}
        self._matched: set[int] = set()
        self._valid: list[tuple[Entry, Instance]] = []
        self._result = Import()

    def compare(self, entries: Sequence[Entry]) -> Import:
        """Returns the changes. Raises DocumentError with every problem."""
        services = self._without_repeated(entries)
        self._match_given_ids(services)
        for key, entry in services.items():
            self._service(key, entry)
        self._delete_unlisted_rows()
        self._find_collisions()
        if self._problems:
            raise DocumentError(self._problems[:MAX_PROBLEMS])
        return self._result

    def _without_repeated(self, entries: Iterable[Entry]) -> dict[str, Entry]:
        services: dict[str, Entry] = {}
        for entry in entries:
            name = entry.fields.get("name")
            key = name.lower() if isinstance(name, str) else ""
            if key in services:
                self._problems.append(entry.problem(f"the same service as {services[key].where}", "name"))
            else:
                services[key] = entry
        return services

    def _match_given_ids(self, services: Mapping[str, Entry]) -> None:
        for service, entry in services.items():
            for item in entry.instances:
                row = self._instances.get(_given_id(item).lower())
                origin = row.service.name.lower() if row is not None else ""
                if row is not None and (origin == service or origin in services or self._delete_unlisted):
                    self._by_given_id[row.consul_id.lower()] = row
                    self._matched.add(row.pk)
        self._named = {key: entry.where for key, entry in services.items()}

    def _service(self, key: str, entry: Entry) -> None:
        row = self._services.get(key) or Service()
        before = _values(row) if row.pk else {}
        valid = self._fill(row, entry)
        self._record(row, before, valid=valid)
        rows = [self._instance(row, item, service_is_valid=valid) for item in entry.instances]
        self._result.declared.append((row, rows))

    def _instance(self, service: Service, entry: Entry, *, service_is_valid: bool) -> Instance:
        row = self._match(service, entry)
        before = _values(row) | {"service": row.service.name} if row.pk else {}
        row.service, row.id_is_given = service, bool(_given_id(entry))
        valid = self._fill(row, entry) and service_is_valid
        if valid:
            self._valid.append((entry, row))
        self._record(row, before, valid=valid)
        return row

    def _match(self, service: Service, entry: Entry) -> Instance:
        row = self._by_given_id.pop(_given_id(entry).lower(), None)
        if row is None:
            row = self._by_endpoint.get(_endpoint(service, entry.fields))
            if row is None or row.pk in self._matched:
                return Instance()
            self._matched.add(row.pk)
        return row

    def _fill(self, row: Row, entry: Entry) -> bool:
        """Puts the entry's values, or else the defaults, into the row. Returns whether all of them are valid."""
        problems = len(self._problems)
        for declared in declared_fields(type(row)):
            value = entry.fields.get(declared.name, _default(row, declared, entry))
            if reason := _type_error(declared, value):
                self._problems.append(entry.problem(reason, declared.key))
            else:
                setattr(row, declared.name, value)
        if len(self._problems) > problems:
            return False
        keys = {field.name: field.key for field in declared_fields(type(row))} | {NON_FIELD_ERRORS: ""}
        try:
            row.clean()
            row.clean_fields(exclude=["service"])
        except ValidationError as error:
            for name, texts in error.message_dict.items():
                self._problems += [entry.problem(text, keys.get(name, name)) for text in texts]
        if len(self._problems) > MAX_PROBLEMS:
            raise DocumentError(self._problems[:MAX_PROBLEMS])
        return len(self._problems) == problems

    def _record(self, row: Any, before: Mapping[str, Any], *, valid: bool) -> None:
        if not valid:
            return
        after = _values(row)
        kind, service = ("instance", row.service.name) if isinstance(row, Instance) else ("service", row.name)
        item = partial(ItemChange, kind=kind, service=service, name=str(row))
        if not before:
            given = ((key, None, value) for key, value in after.items() if value not in ("", [], {}, None))
            values = tuple(_shown(change) for change in given)
            self._result.changes.append(item(action="create", fields=values))
            self._result.new[type(row)].append(row)
            self._result.names.add(service)
            return
        if "service" in before:
            after["service"] = service
        differing = tuple(_shown((key, before[key], value)) for key, value in after.items() if before[key] != value)
        if not differing:
            self._result.unchanged += 1
            return
        self._result.changes.append(item(action="change", fields=differing))
        self._result.changed[type(row)].append(row)
        former = row.saved_name if isinstance(row, Service) else before["service"]
        self._result.names |= {service, former}

    def _delete_unlisted_rows(self) -> None:
        if not self._delete_unlisted:
            return
        for key, row in sorted(self._services.items()):
            if key not in self._named:
                self._result.changes.append(
                    ItemChange(action="delete", kind="service", service=row.name, name=row.name)
                )
                self._result.deleted[Service].append(row)
                self._result.names.add(row.name)
        for instance in self._instances.values():
            if instance.pk not in self._matched:
                service = instance.service.name
                change = ItemChange(action="delete", kind="instance", service=service, name=instance.consul_id)
                self._result.changes.append(change)
                self._result.names.add(service)
                if service.lower() in self._named:  # else it is deleted with its service
                    self._result.deleted[Instance].append(instance)

    def _find_collisions(self) -> None:
        """Reports IDs and endpoints that two instances would have, of the document or kept beside it."""
        ids: dict[str, str] = {}
        endpoints: dict[Endpoint, str] = {}
        for row in self._instances.values() if not self._delete_unlisted else ():
            if row.pk not in self._matched:
                place = f"at {row.address}:{row.port}, which the document doesn't list"
                ids[row.consul_id.lower()] = f"{row.service.name} has an instance of this ID {place}"
                endpoints[_endpoint(row.service, row)] = f"the same address and port as {row}, not in the document"
        for entry, row in self._valid:
            key, endpoint = row.consul_id.lower(), _endpoint(row.service, row)
            if endpoint in endpoints:
                self._problems.append(entry.problem(endpoints[endpoint], "address"))
            elif key in ids:
                self._problems.append(entry.problem(f"{ids[key]} ({row.consul_id})", "id"))
            endpoints.setdefault(endpoint, f"the same address and port as {entry.where}")
            ids.setdefault(key, f"the same service ID as {entry.where}")


def _given_id(entry: Entry) -> str:
    consul_id = entry.fields.get("consul_id")
    return consul_id if isinstance(consul_id, str) else ""


def _endpoint(service: Service, instance: Instance | Mapping[str, Any]) -> Endpoint:
    """Returns the key of an instance's place within its service; the address is in its canonical form."""
    if isinstance(instance, Instance):
        return service.name.lower(), instance.address, instance.port
    address, port = instance.get("address"), instance.get("port")
    try:
        address = Instance().normalizers()["address"](address)
    except InvalidValueError:  # reported when the row is filled
        address = ""
    return str(service.name).lower(), address, port if isinstance(port, int) else None


def _values(row: Row) -> dict[str, Any]:
    return {field.key: getattr(row, field.name) for field in declared_fields(type(row))}


def _shown(change: FieldValues) -> FieldValues:
    """Returns a change as people are shown it: without secret values."""
    key, before, after = change
    if key not in _SECRET_KEYS:
        return change
    return key, None if before is None else hidden(before), hidden_change(before, after)


def _default(row: Any, field: DeclaredField, entry: Entry) -> Any:
    """Returns the value of a field that an entry leaves out: the default, but an instance keeps its ID."""
    if row.pk and (entry.keeps_left_out or field.name == "consul_id"):
        return getattr(row, field.name)
    return entry.defaults.get(field.name, row._meta.get_field(field.name).get_default())


def _type_error(field: DeclaredField, value: Any) -> str:
    """Returns the reason why a value can't be of the field's type; empty where it can."""
    if value is None and field.is_optional:
        return ""
    if field.type is bool:
        return "" if isinstance(value, bool) else "must be true or false"
    if field.type is int:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return "" if is_number else "must be a whole number without quotes"
    if field.type is list:
        is_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return "" if is_texts else "must be a list of texts; put numbers in quotes"
    if field.type is dict:
        is_pairs = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        return "" if is_pairs else "must be pairs of texts; put numbers in quotes"
    if not isinstance(value, str):
        return "must be text; put it in quotes"
    return "" if _is_storable(value) else "must not hold NUL or half a character"


def _is_storable(text: str) -> bool:
    """Returns whether the databases take a text: PostgreSQL takes no NUL, and none takes a lone surrogate."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
