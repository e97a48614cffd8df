"""A service as the table of services shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from registry_admin.dashboard.availability import Availability
from registry_admin.inventory.models import Status


@dataclass(frozen=True, kw_only=True)
class InstanceCell:
    """An instance as a small square. `status`: its health, or Missing or Evicted."""

    id: str
    place: str
    status: Status


@dataclass(kw_only=True)
class ServiceRow:
    """A service in the table.

    `key`: its name in lower case, as the database has it: names that differ only in case are the same service.
    `registers_itself`: undeclared, and all of its instances are registered by our module.
    """

    key: str
    name: str
    is_declared: bool
    health: str
    sync: str
    owner: str
    changed: datetime | None
    registers_itself: bool = False
    cells: list[InstanceCell] = field(default_factory=list)
    instances: int = 0
    availability: Availability | None = None

    @property
    def more(self) -> int:
        """Number of instances without a cell."""
        return self.instances - len(self.cells)
