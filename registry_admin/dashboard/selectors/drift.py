"""Differences between the inventory and Consul, from the mirror, with the action of the next run for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Case, CharField, Count, IntegerField, Q, QuerySet, Value, When
from django.db.models.functions import Cast

from registry_admin.dashboard.selectors.query import page_number
from registry_admin.inventory.models import ConsulContact, Instance, ObservedInstance, SyncStatus
from registry_admin.inventory.sync.removals import RemovalPreview, preview_removals
from registry_admin.reconcile.plan import Action, Cause

PAGE_SIZE = 50
LEFT = "leave"
ACTIONS = {
    str(Action.REGISTER): "Register",
    str(Action.UPDATE): "Update",
    str(Action.DEREGISTER): "Remove",
    LEFT: "Left alone",
}
_ORDER = {action: number for number, action in enumerate(ACTIONS)}
_NOT_COMPARED_YET = Q(sync_status=SyncStatus.UNKNOWN, sync_reason="")
_COLUMNS = ("rank", "kind", "pk", "name", "consul_id", "action", "cause", "reason", "status")


@dataclass(frozen=True, kw_only=True)
class DriftFilter:
    """Filter and page that the address asks for."""

    action: str = ""
    cause: str = ""
    service: str = ""
    page: int = 1

    @classmethod
    def from_query(cls, query: Mapping[str, Any]) -> DriftFilter:
        """Reads a query string; values that don't exist are ignored."""
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
        """Label of the action of the next run."""
        return ACTIONS[self.action or LEFT]

    @property
    def cause_label(self) -> str:
        """The cause in words for people."""
        return Cause.label_of(self.cause)

    @property
    def can_be_applied(self) -> bool:
        """True if applying does something. Instances no longer declared are removed by Prune instead."""
        return bool(self.action) and self.kind == "declared"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A page of differences, and the number of each kind."""

    items: list[DriftItem]
    has_more: bool
    by_action: Mapping[str, int]
    by_cause: Mapping[str, int]
    applicable: int
    prunable: int
    unmanaged: int
    uncompared: int

    @property
    def total(self) -> int:
        """All that differs."""
        return sum(self.by_action.values())


def drift(filters: DriftFilter) -> Drift:
    """Five queries, whatever there is."""
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
    start = (filters.page - 1) * PAGE_SIZE
    both = [_chosen(rows, filters).values_list(*_COLUMNS) for rows in (_declared(), _undeclared())]
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
        uncompared=Instance.objects.filter(_NOT_COMPARED_YET).count(),
        unmanaged=ObservedInstance.objects.filter(sync_status=SyncStatus.UNMANAGED).count(),
    )


@dataclass(frozen=True, kw_only=True)
class Prunable:
    """Owned instances on our node that are no longer declared, or disabled, and what the brake says of them."""

    rows: list[ObservedInstance]
    preview: RemovalPreview

    @property
    def ids(self) -> list[str]:
        """Their service IDs."""
        return [row.consul_id for row in self.rows]


def prunable() -> Prunable:
    """Returns the instances that Prune would remove. Few queries, whatever there is."""
    contact = ConsulContact.objects.filter(pk=1).first()
    node = contact.node if contact else ""
    rows = ObservedInstance.objects.filter(node=node, sync_action=Action.DEREGISTER)
    ordered = list(rows.order_by("service_name", "consul_id"))
    return Prunable(rows=ordered, preview=preview_removals([row.consul_id for row in ordered]))


def _declared() -> QuerySet[Any, Any]:
    """Returns declared instances that differ. A disabled instance that isn't in Consul doesn't."""
    in_order = Q(sync_status=SyncStatus.SYNCED) | Q(sync_status=SyncStatus.DISABLED, sync_cause="")
    rows: QuerySet[Any, Any] = Instance.objects.exclude(in_order).exclude(_NOT_COMPARED_YET).order_by()
    return _common_columns(rows, "declared", service="service__name")


def _undeclared() -> QuerySet[Any, Any]:
    """Returns instances that are no longer declared, and those of which it isn't certain whether they are ours."""
    undeclared = Q(sync_cause=Cause.NOT_DECLARED) | Q(sync_cause__in=[Cause.DOUBT, Cause.ORPHANED], declared=False)
    rows: QuerySet[Any, Any] = ObservedInstance.objects.filter(undeclared).order_by()
    return _common_columns(rows, "observed", service="service_name")


def _common_columns(rows: QuerySet[Any, Any], kind: str, *, service: str) -> QuerySet[Any, Any]:
    text = CharField(max_length=600)
    whens = [When(sync_action=action, then=place) for action, place in _ORDER.items() if action != LEFT]
    annotated: QuerySet[Any, Any] = rows.annotate(
        rank=Case(*whens, default=_ORDER[LEFT], output_field=IntegerField()),
        kind=Value(kind),
        name=Cast(service, text),
        action=Cast("sync_action", text),
        cause=Cast("sync_cause", text),
        reason=Cast("sync_reason", text),
        status=Cast("sync_status", text),
    )
    return annotated


def _chosen(rows: QuerySet[Any, Any], filters: DriftFilter) -> QuerySet[Any, Any]:
    if filters.action:
        rows = rows.filter(action="" if filters.action == LEFT else filters.action)
    if filters.cause:
        rows = rows.filter(cause=filters.cause)
    if filters.service:
        rows = rows.filter(name__icontains=filters.service)
    return rows
