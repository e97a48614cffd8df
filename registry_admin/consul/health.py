"""Results of checks, and the health that follows from them, as frozen values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from registry_admin.consul.reply_fields import mapping_of, shared, string_of

SERVICE_MAINTENANCE = "_service_maintenance:"  # and the instance's ID: the ID of the check that Consul makes of it


class Health(StrEnum):
    """An instance's health, or a whole service's: the worst of its instances'."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"

    @property
    def severity(self) -> int:
        """0 for passing, growing with how much a person should care."""
        return _SEVERITY[self]

    @classmethod
    def worst(cls, healths: Iterable[Health]) -> Health:
        """Returns the worst of several; Unknown for none."""
        return max(healths, key=lambda health: health.severity, default=cls.UNKNOWN)


_SEVERITY = {Health.PASSING: 0, Health.MAINTENANCE: 1, Health.UNKNOWN: 2, Health.WARNING: 3, Health.CRITICAL: 4}


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Last result of a check of an instance. `is_of_node`: of its node, and so of all instances there.

    `type`, `interval` and `timeout` are told by newer agents (the type also by old ones), else empty.
    """

    id: str
    name: str
    status: str
    output: str = ""
    notes: str = ""
    is_of_node: bool = False
    type: str = ""
    interval: str = ""
    timeout: str = ""

    @property
    def is_maintenance(self) -> bool:
        """Consul shows maintenance mode as a critical check with a reserved ID."""
        return self.id.startswith(SERVICE_MAINTENANCE) or self.id == "_node_maintenance"

    @classmethod
    def from_consul(cls, raw: object) -> Self:
        """Reads it from an entry of `/v1/agent/checks` or of `Checks` in `/v1/health/service/…`."""
        entry = mapping_of(raw, "a check")
        return cls(
            id=string_of(entry, "CheckID"),
            name=string_of(entry, "Name"),
            status=shared(string_of(entry, "Status")),
            output=string_of(entry, "Output"),
            notes=string_of(entry, "Notes"),
            is_of_node=entry.get("ServiceID") == "",
            type=shared(str(entry.get("Type") or "")),
            interval=shared(str(entry.get("Interval") or "")),
            timeout=shared(str(entry.get("Timeout") or "")),
        )


def health_of(checks: Iterable[CheckResult]) -> Health:
    """Consul's own rule: every check must pass; none at all is passing; maintenance outranks the rest."""
    statuses = set()
    for check in checks:
        if check.is_maintenance:
            return Health.MAINTENANCE
        statuses.add(check.status)
    if statuses <= {"passing"}:
        return Health.PASSING
    if "critical" in statuses:
        return Health.CRITICAL
    return Health.WARNING if "warning" in statuses else Health.UNKNOWN
