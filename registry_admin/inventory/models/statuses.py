"""Sync statuses and healths: label, severity, colour and group of each. Pages, filters, counts and SQL use them.

A new status takes its member in the enum (`reconcile.plan.SyncStatus` or `consul.Health`), its row here, and a line in
docs/reference/statuses.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from django.db.models import Case, IntegerField, When

from registry_admin.consul import Health
from registry_admin.reconcile.plan import SyncStatus


class Colour(StrEnum):
    """Colours of chips, cells and nodes: the CSS classes `status-green` and so on in inventory.css."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"
    BLUE = "blue"
    GREY = "grey"

    @property
    def symbol(self) -> str:
        """The shape that comes with the colour, for readers who can't tell colours apart."""
        return {"green": "●", "amber": "▲", "red": "■", "blue": "◆", "grey": "○"}[self]


@dataclass(frozen=True, kw_only=True)
class Status:
    """A sync status or a health, with all that pages need of it.

    `severity`: of several statuses, the one with the highest is shown. `urgency`: 0 for what a person must act on
    first; None where no action is needed. `is_absent`: the instance should be in Consul and isn't. `is_certain`: true
    even while Consul can't be seen.
    """

    value: str
    label: str
    severity: int
    colour: Colour
    urgency: int | None = None
    is_absent: bool = False
    is_certain: bool = False

    def __str__(self) -> str:
        return self.value


class Axis:
    """All statuses of one axis, in the order in which pages list them.

    `absent`: the values of instances that should be in Consul and aren't.
    """

    def __init__(self, name: str, statuses: Iterable[Status]) -> None:
        self.name = name
        self.statuses = tuple(statuses)
        self.by_severity = tuple(sorted(self.statuses, key=lambda status: -status.severity))
        self._by_value: Mapping[str, Status] = MappingProxyType({status.value: status for status in self.statuses})
        self._ranks = {status.value: rank for rank, status in enumerate(self.by_severity)}
        self.absent = [status.value for status in self.by_severity if status.is_absent]

    def __getitem__(self, value: str) -> Status:
        return self._by_value[value]

    @property
    def values(self) -> tuple[str, ...]:
        """The values that rows have."""
        return tuple(self._by_value)

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Value and label of each, for Django's fields."""
        return [(status.value, status.label) for status in self.statuses]

    @property
    def urgent(self) -> list[str]:
        """The values that need a person's attention."""
        return [status.value for status in self.by_severity if status.urgency is not None]

    def rank_of(self, value: str) -> int:
        """Returns the place in the order of severity: 0 for the most severe."""
        return self._ranks[value]

    def rank(self, column: str) -> Case:
        """Returns `rank_of` the column's value as an expression that the database sorts by."""
        whens = [When(**{column: status.value}, then=rank) for rank, status in enumerate(self.by_severity)]
        return Case(*whens, default=len(self.by_severity) - 1, output_field=IntegerField())

    def most_severe(self, values: Iterable[str], *, default: str) -> str:
        """Returns the value to show for several, or `default` for none."""
        return max(values, key=lambda value: self._by_value[value].severity, default=default)


def _health(health: Health, label: str, colour: Colour, *, urgency: int | None = None, certain: bool = False) -> Status:
    return Status(
        value=health.value, label=label, severity=health.severity, colour=colour, urgency=urgency, is_certain=certain
    )


HEALTHS = Axis(
    "health",
    [
        _health(Health.PASSING, "Passing", Colour.GREEN),
        _health(Health.WARNING, "Warning", Colour.AMBER, urgency=1),
        _health(Health.CRITICAL, "Critical", Colour.RED, urgency=0),
        _health(Health.MAINTENANCE, "Maintenance", Colour.BLUE),
        _health(Health.UNKNOWN, "Unknown", Colour.GREY, certain=True),
    ],
)

SYNC_STATUSES = Axis(
    "sync",
    [
        Status(value=SyncStatus.SYNCED.value, label="Synced", severity=1, colour=Colour.GREEN),
        Status(value=SyncStatus.OUT_OF_SYNC.value, label="Out of sync", severity=4, colour=Colour.AMBER, urgency=2),
        Status(
            value=SyncStatus.MISSING.value, label="Missing", severity=6, colour=Colour.RED, urgency=1, is_absent=True
        ),
        Status(
            value=SyncStatus.EVICTED.value, label="Evicted", severity=5, colour=Colour.RED, urgency=1, is_absent=True
        ),
        Status(value=SyncStatus.UNMANAGED.value, label="Unmanaged", severity=2, colour=Colour.BLUE),
        Status(value=SyncStatus.DISABLED.value, label="Disabled", severity=0, colour=Colour.GREY, is_certain=True),
        Status(value=SyncStatus.UNKNOWN.value, label="Unknown", severity=3, colour=Colour.GREY, is_certain=True),
    ],
)
AXES: Mapping[str, Axis] = MappingProxyType({axis.name: axis for axis in (HEALTHS, SYNC_STATUSES)})
