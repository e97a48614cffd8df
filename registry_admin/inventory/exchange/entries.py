"""Entries of a document: services and instances as they are written there, before they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from registry_admin.inventory.exchange.errors import Problem

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A service or an instance in a document: its values by model field, and its place.

    What is left out gets its default, or keeps its value where `keeps_left_out`. `defaults`: those of a new row that
    aren't the model's.
    """

    where: str
    line: int
    fields: Mapping[str, Any]
    instances: tuple[Entry, ...] = ()
    keeps_left_out: bool = False
    defaults: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def problem(self, text: str, key: str = "") -> Problem:
        """Returns a problem of this entry, or of one of its keys."""
        return Problem(self.where, self.line, f"{key}: {text}" if key else text)


@dataclass(frozen=True, kw_only=True)
class Document:
    """The entries of a document, and what it holds beside them.

    `notes`: what can't be carried over from a format of Consul's. `is_complete`: it could list the whole inventory.
    """

    label: str
    entries: Sequence[Entry]
    notes: Sequence[Problem] = ()
    is_complete: bool = True
