"""What differs between the inventory and Consul, from the mirror: item by item, with what the next pass would do."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Case, CharField, Count, IntegerField, Q, QuerySet, Value, When
from django.db.models.functions import Cast

from registry_admin.dashboard.selectors.wording import page_number
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, SyncStatus
from registry_admin.reconcile.plan import Action, Cause, why_unsafe

PAGE_SIZE = 50
LEFT = "leave"
ACTIONS = {
    str(Action.REGISTER): "Register",
    str(Action.UPDATE): "Update",
    str(Action.DEREGISTER): "Remove",
    LEFT: "Left alone",
}
_ORDER = {action: number for number, action in enumerate(ACTIONS)}
_COLUMNS = ("rank", "kind", "pk", "name", "consul_id", "action", "cause", "reason", "status")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the address asks for."""

    action: str = ""
    cause: str = ""
    service: str = ""
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, Any]) -> Wanted:
        """From a query string; what isn't known is as if it weren't there."""
        action, cause = str(query.get("action", "")), str(query.get("cause", ""))
        return cls(
            action=action if action in ACTIONS else "",
            cause=cause if cause in set(Cause) else "",
            service=str(query.get("service", ""))[:200].replace("\x00", ""),
            page=page_number(query),
        )


@dataclass(kw_only=True)
class DriftItem:
    """An instance that isn't as it should be."""

    kind: str
    key: int
    service: str
    consul_id: str
    action: str
    cause: str
    reason: str
    status: str
    changes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def word(self) -> str:
        """What the next pass does."""
        return ACTIONS[self.action or LEFT]

    @property
    def can_be_applied(self) -> bool:
        """Whether applying does anything; what is no longer declared is pruned elsewhere."""
        return bool(self.action) and self.kind == "declared"

    @property
    def is_pruned(self) -> bool:
        """Whether it is owned and no longer declared."""
        return self.kind == "observed"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A page of what differs, and how much there is of each kind."""

    items: list[DriftItem]
    has_more: bool
    by_action: Mapping[str, int]
    by_cause: Mapping[str, int]
    applicable: int
    prunable: int
    unmanaged: int

    @property
    def total(self) -> int:
        """All that differs."""
        return sum(self.by_action.values())


def drift(wanted: Wanted) -> Drift:
    """Four queries, whatever there is."""
    by_action: Counter[str] = Counter()
    by_cause: Counter[str] = Counter()
    applicable = prunable = 0
    grouped = [
        rows.values("kind", "action", "cause").annotate(n=Count("pk")).values_list("kind", "action", "cause", "n")
        for rows in (_declared(), _undeclared())
    ]
    for kind, action, cause, n in grouped[0].union(grouped[1], all=True):
        by_action[action or LEFT] += n
        by_cause[cause] += n
        applicable += n if action and kind == "declared" else 0
        prunable += n if kind == "observed" else 0
    start = (wanted.page - 1) * PAGE_SIZE
    both = [_chosen(rows, wanted).values_list(*_COLUMNS) for rows in (_declared(), _undeclared())]
    rows = list(both[0].union(both[1], all=True).order_by("rank", "name", "consul_id")[start : start + PAGE_SIZE + 1])
    items = [
        DriftItem(
            kind=kind, key=key, service=name, consul_id=consul_id, action=action, cause=cause, reason=reason,
            status=status,
        )
        for _, kind, key, name, consul_id, action, cause, reason, status in rows[:PAGE_SIZE]
    ]  # fmt: skip
    declared = [item.key for item in items if item.kind == "declared"]
    differences = dict(Instance.objects.filter(pk__in=declared).order_by().values_list("pk", "differences"))
    for item in items:
        item.changes = differences.get(item.key, []) if item.kind == "declared" else []
    return Drift(
        items=items,
        has_more=len(rows) > PAGE_SIZE,
        by_action=by_action,
        by_cause={cause: n for cause, n in by_cause.items() if cause},
        applicable=applicable,
        prunable=prunable,
        unmanaged=ObservedInstance.objects.filter(sync_status=SyncStatus.UNMANAGED).count(),
    )


@dataclass(frozen=True, kw_only=True)
class Prunable:
    """What is owned and no longer declared, and whether removing all of it looks like a mistake."""

    rows: list[ObservedInstance]
    unsafe: str

    @property
    def ids(self) -> list[str]:
        """Their service IDs."""
        return [row.consul_id for row in self.rows]

    @property
    def digest(self) -> str:
        """Of just these: what was reviewed is what is removed."""
        return hashlib.sha256("\n".join(self.ids).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    @property
    def phrase(self) -> str:
        """What is to be typed where it looks like a mistake."""
        return f"remove {len(self.rows)}"


def prunable() -> Prunable:
    """What prune would remove. Three queries."""
    contact = ConsulContact.objects.filter(pk=1).first()
    node = contact.node if contact else ""
    rows = list(_undeclared().filter(node=node).order_by("service_name", "consul_id"))
    owned = ObservedInstance.objects.filter(node=node, owner=conf.owner).count()
    return Prunable(rows=rows, unsafe=why_unsafe(len(rows), owned=owned, declared=Instance.objects.count()))


def _declared() -> QuerySet[Any, Any]:
    """Declared instances that aren't as they should be; what is disabled and gone is as it should be."""
    as_it_should_be = Q(sync_status=SyncStatus.SYNCED) | Q(sync_status=SyncStatus.DISABLED, sync_action="")
    never_looked_at = Q(sync_status=SyncStatus.UNKNOWN, sync_reason="")
    rows: QuerySet[Any, Any] = Instance.objects.exclude(as_it_should_be).exclude(never_looked_at).order_by()
    return _alike(rows, "declared", service="service__name")


def _undeclared() -> QuerySet[Any, Any]:
    """Instances that we own and that nobody declares any more."""
    rows: QuerySet[Any, Any] = ObservedInstance.objects.filter(
        sync_cause=Cause.NOT_DECLARED, owner=conf.owner
    ).order_by()
    return _alike(rows, "observed", service="service_name")


def _alike(rows: QuerySet[Any, Any], kind: str, *, service: str) -> QuerySet[Any, Any]:
    text = CharField(max_length=600)
    whens = [When(sync_action=action, then=place) for action, place in _ORDER.items() if action != LEFT]
    alike: QuerySet[Any, Any] = rows.annotate(
        rank=Case(*whens, default=_ORDER[LEFT], output_field=IntegerField()),
        kind=Value(kind),
        name=Cast(service, text),
        action=Cast("sync_action", text),
        cause=Cast("sync_cause", text),
        reason=Cast("sync_reason", text),
        status=Cast("sync_status", text),
    )
    return alike


def _chosen(rows: QuerySet[Any, Any], wanted: Wanted) -> QuerySet[Any, Any]:
    if wanted.action:
        rows = rows.filter(action="" if wanted.action == LEFT else wanted.action)
    if wanted.cause:
        rows = rows.filter(cause=wanted.cause)
    if wanted.service:
        rows = rows.filter(name__icontains=wanted.service)
    return rows
