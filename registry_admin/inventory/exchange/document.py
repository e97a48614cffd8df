"""Reads a document into entries, strictly: anything ambiguous is a problem, and each problem names its place.

The content tells the format: ours, or one of Consul's.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from registry_admin.inventory.exchange.consul_definitions import ConsulReader
from registry_admin.inventory.exchange.consul_shapes import ConsulDocument, recognize
from registry_admin.inventory.exchange.entries import Document, Entry
from registry_admin.inventory.exchange.errors import DocumentError, Problem
from registry_admin.inventory.exchange.formats import OwnFormat, format_of
from registry_admin.inventory.exchange.limits import MAX_BYTES, MAX_PROBLEMS, TOO_LARGE
from registry_admin.inventory.exchange.strict_yaml import line_of
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.models.declared_fields import CHECK, declared_fields

VERSION = 1  # a document's `format`


@dataclass
class _Reader:
    """Reads plain data; collects the problems, each with its place."""

    problems: list[Problem] = field(default_factory=list)

    def report(self, where: str, line: int, text: str) -> None:
        """Adds a problem. Raises DocumentError once there are more than anybody would read."""
        self.problems.append(Problem(where, line, text))
        if len(self.problems) >= MAX_PROBLEMS:
            raise DocumentError(self.problems)

    def mapping(self, value: Any, where: str, line: int, keys: Iterable[str]) -> dict[str, Any]:
        """Returns the pairs whose keys are known; reports the unknown ones."""
        if not isinstance(value, dict):
            self.report(where, line, "must be a mapping of keys and values")
            return {}
        known = list(keys)
        for key in [key for key in value if key not in known]:
            name = str(key)[:60]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
            self.report(where, line_of(value, key), f"unknown key {name!r}{hint}")
        return {key: value[key] for key in known if key in value}

    def items(self, value: Any, where: str, line: int) -> Iterator[tuple[int, Any]]:
        """Yields the items of a list, numbered."""
        if not isinstance(value, list):
            self.report(where, line, "must be a list")
            return
        yield from enumerate(value)


def read_document(text: str) -> Document:
    """Returns the services of a document in our own format, or in one of Consul's.

    Raises DocumentError with every problem.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise DocumentError.at(0, TOO_LARGE)
    fmt = format_of(text)
    data = fmt.parse(text)
    if consul := recognize(data):
        return _read_consul(consul)
    if not isinstance(fmt, OwnFormat):
        raise DocumentError.at(0, f"it is {fmt.label}, but has neither 'service' nor 'services'")
    return _read_ours(data)


def _read_consul(consul: ConsulDocument) -> Document:
    reader = ConsulReader()
    entries = reader.read(consul)
    if reader.problems:
        raise DocumentError(reader.problems[:MAX_PROBLEMS])
    return Document(label=consul.label, entries=entries, notes=reader.notes, is_complete=False)


def _read_ours(data: Any) -> Document:
    reader = _Reader()
    top = reader.mapping(data, "document", 0, ("format", "services"))
    if top.get("format") != VERSION or isinstance(top.get("format"), bool):
        reader.report("document", line_of(data, "format"), f"must say 'format: {VERSION}'")
    if isinstance(data, dict) and "services" not in top:
        reader.report("document", 0, "has no 'services'; is it cut off? A document without any says 'services: []'")
    line = line_of(data, "services")
    entries = [
        _read_service(reader, item, line=line_of(item) or line, number=number)
        for number, item in reader.items(top.get("services", []), "services", line)
    ]
    if reader.problems:
        raise DocumentError(reader.problems)
    return Document(label="a document of Registry Admin", entries=entries)


def _read_service(reader: _Reader, value: Any, *, line: int, number: int) -> Entry:
    name = value.get("name", "") if isinstance(value, dict) else ""
    where = f"services[{number + 1}]" + (f" {name[:60]!r}" if isinstance(name, str) and name else "")
    names = {field.leaf: field.name for field in declared_fields(Service) if not field.is_of_check}
    check_names = {field.leaf: field.name for field in declared_fields(Service) if field.is_of_check}
    pairs = reader.mapping(value, where, line, (*names, CHECK, "instances"))
    check_line, instances_line = line_of(value, CHECK), line_of(value, "instances")
    check = reader.mapping(pairs.pop(CHECK, {}), f"{where}, {CHECK}", check_line, check_names)
    instances = [
        _read_instance(reader, item, where, line=line_of(item) or instances_line, number=index)
        for index, item in reader.items(pairs.pop("instances", []), f"{where}, instances", instances_line)
    ]
    if pairs and not pairs.get("name"):
        reader.report(where, line, "name: is missing")
    fields = {names[key]: item for key, item in pairs.items()} | {check_names[key]: item for key, item in check.items()}
    return Entry(where=where, line=line, fields=fields, instances=tuple(instances))


def _read_instance(reader: _Reader, value: Any, service: str, *, line: int, number: int) -> Entry:
    where = f"{service}, instances[{number + 1}]"
    names = {field.leaf: field.name for field in declared_fields(Instance)}
    pairs = reader.mapping(value, where, line, names)
    for key in ("address", "port"):
        if pairs and key not in pairs:
            reader.report(where, line, f"{key}: is missing")
    return Entry(where=where, line=line, fields={names[key]: item for key, item in pairs.items()})
