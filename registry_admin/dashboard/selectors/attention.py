"""What needs attention: each service that does, why, and since when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Q

from registry_admin.dashboard.selectors.urgency import GONE, HEALTHS, SYNCS, UNSYNCED, UNWELL, rank
from registry_admin.inventory.models import Health, Instance, ObservedInstance, SyncStatus
from registry_admin.inventory.selectors.health import output_of

MAX_ATTENTION = 20
REASONS = 3  # of each service
MANY = 100  # instances that are looked at for them


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a service needs attention: of one instance, in words, and since when."""

    status: str
    axis: str
    consul_id: str
    words: str
    since: datetime | None

    @property
    def urgency(self) -> int:
        """Less is more pressing."""
        return HEALTHS.index(Health(self.status)) if self.axis == "health" else 1 + (self.status not in GONE)


@dataclass(kw_only=True)
class Attention:
    """A service that needs it, and why."""

    name: str
    is_declared: bool
    reasons: list[Reason] = field(default_factory=list)
    count: int = 0

    @property
    def more(self) -> int:
        """Reasons that aren't shown."""
        return self.count - len(self.reasons)

    @property
    def urgency(self) -> int:
        """That of its most pressing reason."""
        return min(one.urgency for one in self.reasons)

    @property
    def can_be_synced(self) -> bool:
        """Whether syncing may mend it."""
        return self.is_declared and any(one.axis == "sync" for one in self.reasons)


def attention() -> list[Attention]:
    """The services that need it, the most pressing first, each with its reasons. Two queries."""
    found: dict[str, Attention] = {}

    def add(name: str, reason: Reason, *, ours: bool) -> None:
        entry = found.setdefault(name.lower(), Attention(name=name, is_declared=ours))
        entry.count += 1
        if len(entry.reasons) < REASONS:
            entry.reasons.append(reason)

    unsynced = (
        Instance.objects.filter(sync_status__in=UNSYNCED, enabled=True, service__enabled=True)
        .order_by(rank("sync_status", SYNCS), "service__name", "consul_id")
        .values_list("service__name", "consul_id", "sync_status", "sync_reason", "sync_cause", "evicted_at")
    )
    for name, consul_id, status, why, cause, since in unsynced[:MANY]:
        words = f"{why} ({cause})" if cause and cause not in why else why
        add(name, Reason(status=status, axis="sync", consul_id=consul_id, words=words, since=since), ours=True)
    unwell = (
        ObservedInstance.objects.filter(Q(health__in=UNWELL) | ~Q(note=""))
        .order_by(rank("health", HEALTHS), "health_since", "service_name", "consul_id")
        .values_list("service_name", "consul_id", "health", "checks", "note", "health_since", "sync_status")
    )
    for name, consul_id, health, checks, note, since, status in unwell[:MANY]:
        said = output_of(checks).strip().partition("\n")[0][:300]
        words = "; ".join(part for part in (said, note) if part)
        reason = Reason(status=health, axis="health", consul_id=consul_id, words=words, since=since)
        add(name, reason, ours=status != SyncStatus.UNMANAGED)
    for entry in found.values():
        entry.reasons.sort(key=lambda one: one.urgency)
    ordered = sorted(found.values(), key=lambda one: (not one.is_declared, one.urgency, one.name.lower()))
    return ordered[:MAX_ATTENTION]
