"""Services that need attention, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Q

from registry_admin.inventory.models import AXES, HEALTHS, SYNC_STATUSES, Instance, ObservedInstance, SyncStatus
from registry_admin.inventory.selectors.health import failing_output
from registry_admin.reconcile.plan import Cause

MAX_ATTENTION = 20
MAX_REASONS = 3  # of each service
MAX_INSTANCES_READ = 100  # to find the reasons


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason why a service needs attention: an instance, its status, and since when."""

    status: str
    axis: str
    consul_id: str
    words: str
    since: datetime | None

    @property
    def urgency(self) -> int:
        """Urgency of the status: 0 is the highest."""
        urgency = AXES[self.axis][self.status].urgency
        return len(HEALTHS.values) if urgency is None else urgency


@dataclass(kw_only=True)
class Attention:
    """A service that needs attention."""

    name: str
    is_declared: bool
    reasons: list[Reason] = field(default_factory=list)
    count: int = 0

    @property
    def more(self) -> int:
        """Number of reasons left out."""
        return self.count - len(self.reasons)

    @property
    def urgency(self) -> int:
        """Urgency of the most urgent reason."""
        return min(item.urgency for item in self.reasons)

    @property
    def can_be_synced(self) -> bool:
        """True if a sync may help."""
        return self.is_declared and any(item.axis == "sync" for item in self.reasons)


def attention() -> list[Attention]:
    """Returns the services that need attention, the most urgent first. Two queries."""
    by_name: dict[str, Attention] = {}

    def add(name: str, reason: Reason, *, is_declared: bool) -> None:
        entry = by_name.setdefault(name.lower(), Attention(name=name, is_declared=is_declared))
        entry.count += 1
        if len(entry.reasons) < MAX_REASONS:
            entry.reasons.append(reason)

    unsynced = (
        Instance.objects.filter(sync_status__in=SYNC_STATUSES.urgent, enabled=True, service__enabled=True)
        .order_by(SYNC_STATUSES.rank("sync_status"), "service__name", "consul_id")
        .values_list("service__name", "consul_id", "sync_status", "sync_reason", "sync_cause", "evicted_at")
    )
    for name, consul_id, status, sync_reason, cause_code, since in unsynced[:MAX_INSTANCES_READ]:
        cause = Cause.label_of(cause_code)
        words = f"{sync_reason} ({cause})" if cause not in sync_reason else sync_reason
        add(name, Reason(status=status, axis="sync", consul_id=consul_id, words=words, since=since), is_declared=True)
    unhealthy = (
        ObservedInstance.objects.filter(Q(health__in=HEALTHS.urgent) | ~Q(note=""))
        .order_by(HEALTHS.rank("health"), "health_since", "service_name", "consul_id")
        .values_list("service_name", "consul_id", "health", "checks", "note", "health_since", "sync_status")
    )
    for name, consul_id, health, checks, note, since, status in unhealthy[:MAX_INSTANCES_READ]:
        output = failing_output(checks).strip().partition("\n")[0][:300]
        words = "; ".join(part for part in (output, note) if part)
        reason = Reason(status=health, axis="health", consul_id=consul_id, words=words, since=since)
        add(name, reason, is_declared=status != SyncStatus.UNMANAGED)
    for entry in by_name.values():
        entry.reasons.sort(key=lambda item: item.urgency)
    ordered = sorted(by_name.values(), key=lambda item: (not item.is_declared, item.urgency, item.name.lower()))
    return ordered[:MAX_ATTENTION]
