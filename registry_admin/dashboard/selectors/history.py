"""Changes of health, sync runs and changes of declarations, newest first.

Pages begin after a key, so that no page counts or skips millions of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import OuterRef, Q, QuerySet, Subquery, Value
from django.utils import timezone

from registry_admin.dashboard.selectors.query import display_text, page_number
from registry_admin.inventory.models import HEALTHS, HealthTransition, Instance, Service, SyncRun
from registry_admin.inventory.models.secrets import hidden, hidden_change

PAGE_SIZE = 50
SINCE = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
HEALTHS_AFTER = [*HEALTHS.values, HealthTransition.EVICTED, "gone"]
TYPES = {"+": "created", "~": "changed", "-": "deleted"}


@dataclass(frozen=True, kw_only=True)
class HistoryFilter:
    """Filter and page that the address asks for."""

    service: str = ""
    instance: str = ""
    after: str = ""
    outcome: str = ""
    trigger: str = ""
    actor: str = ""
    since: str = ""
    before: int = 0
    page: int = 1

    @classmethod
    def from_query(cls, query: Mapping[str, Any]) -> HistoryFilter:
        """Reads a query string; values that don't exist are ignored."""

        def text(name: str) -> str:
            return str(query.get(name, "")).strip()[:512].replace("\x00", "")

        def choice(name: str, known: Iterable[str]) -> str:
            return value if (value := text(name)) in known else ""

        before = text("before")
        return cls(
            service=text("service"),
            instance=text("instance"),
            after=choice("after", HEALTHS_AFTER),
            outcome=choice("outcome", SyncRun.Outcome.values),
            trigger=choice("trigger", SyncRun.Trigger.values),
            actor=text("actor"),
            since=choice("since", SINCE),
            before=min(int(before), 2**62) if before.isascii() and before.isdigit() and len(before) < 20 else 0,
            page=page_number(query, most=200),
        )

    @property
    def since_time(self) -> datetime | None:
        """Time before which changes are left out, if any."""
        return timezone.now() - SINCE[self.since] if self.since else None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A page of rows, and where the next one begins."""

    rows: list[Any]
    older: int | None


def _page(rows: QuerySet[Any, Any], filters: HistoryFilter) -> Listing:
    if filters.before:
        rows = rows.filter(pk__lt=filters.before)
    listed = list(rows.order_by("-pk")[: PAGE_SIZE + 1])
    page = listed[:PAGE_SIZE]
    return Listing(rows=page, older=page[-1].pk if len(listed) > PAGE_SIZE else None)


def transitions(filters: HistoryFilter) -> Listing:
    """Changes of health. One query."""
    rows = HealthTransition.objects.all()
    if filters.service:
        rows = rows.filter(service_name__iexact=filters.service)
    if filters.instance:
        rows = rows.filter(consul_id=filters.instance)
    if filters.after:
        rows = rows.filter(after="" if filters.after == "gone" else filters.after)
    if filters.since_time:
        rows = rows.filter(at__gte=filters.since_time)
    return _page(rows, filters)


def runs(filters: HistoryFilter) -> Listing:
    """Syncs, without their items. One query."""
    rows = SyncRun.objects.defer("items")
    if filters.outcome:
        rows = rows.filter(outcome=filters.outcome)
    if filters.trigger:
        rows = rows.filter(trigger=filters.trigger)
    if filters.actor:
        rows = rows.filter(actor=filters.actor)
    if filters.since_time:
        rows = rows.filter(started_at__gte=filters.since_time)
    return _page(rows, filters)


@dataclass(frozen=True, kw_only=True)
class HistoryFieldChange:
    """A field of a declaration, before and after."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class DeclarationChange:
    """A change of a service or of one of its instances."""

    at: datetime
    subject: str
    kind: str
    verb: str
    actor: str
    via: str
    service: str
    key: str
    changes: list[HistoryFieldChange]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """A page of them."""

    rows: list[DeclarationChange]
    has_more: bool


_HIDDEN_FIELDS = frozenset({
    "id", "history_id", "history_date", "history_change_reason", "history_type", "history_user_id", "created_at",
})  # fmt: skip


_SECRETS = Service.SECRETS | Instance.SECRETS


def declaration_changes(filters: HistoryFilter) -> Changes:
    """Returns a page of changes of declarations, with author and changed fields. At most six queries."""
    start = (filters.page - 1) * PAGE_SIZE
    columns = ("history_date", "history_id", "kind")
    service_versions = _versions(Service, filters, Q(name__iexact=filters.service))
    of_service = Service.history.model.objects.filter(name__iexact=filters.service).values("id")
    instance_versions = _versions(Instance, filters, Q(service_id__in=of_service))
    both = (
        service_versions.annotate(kind=Value("service"))
        .values_list(*columns)
        .union(instance_versions.annotate(kind=Value("instance")).values_list(*columns), all=True)
    )
    rows = list(both.order_by("-history_date", "-history_id")[start : start + PAGE_SIZE + 1])
    versions = {
        kind: _with_former(model, [key for _, key, its_kind in rows[:PAGE_SIZE] if its_kind == kind])
        for kind, model in (("service", Service), ("instance", Instance))
    }
    names = _names({row.service_id for row, _ in versions["instance"].values()})
    rows = [
        _change(kind, *versions[kind][key], names=names) for _, key, kind in rows[:PAGE_SIZE] if key in versions[kind]
    ]
    return Changes(rows=rows, has_more=len(rows) > PAGE_SIZE)


def _versions(model: Any, filters: HistoryFilter, of_service: Q) -> Any:
    rows = model.history.model.objects.order_by()
    if filters.service:
        rows = rows.filter(of_service)
    if filters.actor:
        rows = rows.filter(history_user_id=filters.actor)
    if filters.since_time:
        rows = rows.filter(history_date__gte=filters.since_time)
    return rows


def _with_former(model: Any, keys: list[int]) -> dict[int, tuple[Any, Any]]:
    """Returns these versions, each with the version before it or None. Two queries."""
    if not keys:
        return {}
    history = model.history.model
    former = history.objects.filter(id=OuterRef("id"), history_id__lt=OuterRef("history_id")).order_by("-history_id")
    rows = list(
        history.objects.filter(history_id__in=keys)
        .annotate(former=Subquery(former.values("history_id")[:1]))
        .order_by()
    )
    before = history.objects.in_bulk([row.former for row in rows if row.former])
    return {row.history_id: (row, before.get(row.former)) for row in rows}


def _names(keys: Iterable[int | None]) -> dict[int, str]:
    """Returns the latest name of each service, by key. One query."""
    service_keys = [key for key in keys if key is not None]
    if not service_keys:
        return {}
    history = Service.history.model
    newest = history.objects.filter(id=OuterRef("id")).order_by("-history_id").values("history_id")[:1]
    rows = history.objects.filter(id__in=service_keys, history_id=Subquery(newest)).order_by()
    return dict(rows.values_list("id", "name"))


def _change(kind: str, row: Any, former: Any, *, names: Mapping[int, str]) -> DeclarationChange:
    fields = [field.attname for field in row._meta.concrete_fields if field.attname not in _HIDDEN_FIELDS]
    if kind == "instance":
        fields.remove("service_id")
    changes = []
    if row.history_type != "-":
        for name in fields:
            before, after = getattr(former, name, None), getattr(row, name)
            if before != after and (former is not None or after not in ("", [], {}, None)):
                if name in _SECRETS:
                    before, after = hidden(before or {}), hidden_change(before, after)
                old = "" if former is None else display_text(before)
                changes.append(HistoryFieldChange(name=name.replace("_", " "), before=old, after=display_text(after)))
    return DeclarationChange(
        at=row.history_date,
        subject=row.name if kind == "service" else row.consul_id,
        kind=kind,
        verb=TYPES.get(row.history_type, row.history_type),
        actor=row.history_user_id,
        via=row.history_change_reason or "",
        service=row.name if kind == "service" else names.get(row.service_id, ""),
        key=f"{kind}-{row.history_id}",
        changes=changes,
    )
