"""What happened, newest first: pages begin after a key, so that none of them counts or skips millions of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import OuterRef, Q, QuerySet, Subquery, Value
from django.utils import timezone

from registry_admin.dashboard.selectors.wording import in_words, page_number
from registry_admin.inventory.models import Health, HealthTransition, Instance, Service, SyncRun

PAGE_SIZE = 50
SINCE = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
AFTER = [*Health.values, HealthTransition.EVICTED, "gone"]
TYPES = {"+": "created", "~": "changed", "-": "deleted"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the address asks for."""

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
    def of(cls, query: Mapping[str, Any]) -> Wanted:
        """From a query string; what isn't known is as if it weren't there."""

        def text(name: str) -> str:
            return str(query.get(name, "")).strip()[:512].replace("\x00", "")

        def among(name: str, known: Iterable[str]) -> str:
            return value if (value := text(name)) in known else ""

        before = text("before")
        return cls(
            service=text("service"),
            instance=text("instance"),
            after=among("after", AFTER),
            outcome=among("outcome", SyncRun.Outcome.values),
            trigger=among("trigger", SyncRun.Trigger.values),
            actor=text("actor"),
            since=among("since", SINCE),
            before=min(int(before), 2**62) if before.isascii() and before.isdigit() and len(before) < 20 else 0,
            page=page_number(query, most=200),
        )

    @property
    def began(self) -> datetime | None:
        """Nothing older is wanted."""
        return timezone.now() - SINCE[self.since] if self.since else None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A page of rows, and where the next one begins."""

    rows: list[Any]
    older: int | None


def _page(rows: QuerySet[Any, Any], wanted: Wanted) -> Listing:
    if wanted.before:
        rows = rows.filter(pk__lt=wanted.before)
    found = list(rows.order_by("-pk")[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    return Listing(rows=shown, older=shown[-1].pk if len(found) > PAGE_SIZE else None)


def transitions(wanted: Wanted) -> Listing:
    """Changes of health. One query."""
    rows = HealthTransition.objects.all()
    if wanted.service:
        rows = rows.filter(service_name__iexact=wanted.service)
    if wanted.instance:
        rows = rows.filter(consul_id=wanted.instance)
    if wanted.after:
        rows = rows.filter(after="" if wanted.after == "gone" else wanted.after)
    if wanted.began:
        rows = rows.filter(at__gte=wanted.began)
    return _page(rows, wanted)


def runs(wanted: Wanted) -> Listing:
    """Syncs, without their items. One query."""
    rows = SyncRun.objects.defer("items")
    if wanted.outcome:
        rows = rows.filter(outcome=wanted.outcome)
    if wanted.trigger:
        rows = rows.filter(trigger=wanted.trigger)
    if wanted.actor:
        rows = rows.filter(actor=wanted.actor)
    if wanted.began:
        rows = rows.filter(started_at__gte=wanted.began)
    return _page(rows, wanted)


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """A field of a declaration, before and after."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class DeclarationChange:
    """A change of a service or of one of its instances."""

    at: datetime
    what: str
    kind: str
    verb: str
    who: str
    via: str
    service: str
    key: str
    changes: list[FieldChange]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """A page of them."""

    rows: list[DeclarationChange]
    has_more: bool


_UNSHOWN = frozenset({
    "id", "history_id", "history_date", "history_change_reason", "history_type", "history_user_id", "created_at",
})  # fmt: skip


def declaration_changes(wanted: Wanted) -> Changes:
    """Who changed which declaration, from what to what. At most six queries, whatever there is."""
    start = (wanted.page - 1) * PAGE_SIZE
    columns = ("history_date", "history_id", "kind")
    ours = _versions(Service, wanted, Q(name__iexact=wanted.service))
    of_service = Service.history.model.objects.filter(name__iexact=wanted.service).values("id")
    theirs = _versions(Instance, wanted, Q(service_id__in=of_service))
    both = (
        ours.annotate(kind=Value("service"))
        .values_list(*columns)
        .union(theirs.annotate(kind=Value("instance")).values_list(*columns), all=True)
    )
    found = list(both.order_by("-history_date", "-history_id")[start : start + PAGE_SIZE + 1])
    versions = {
        kind: _with_former(model, [key for _, key, its_kind in found[:PAGE_SIZE] if its_kind == kind])
        for kind, model in (("service", Service), ("instance", Instance))
    }
    names = _names({row.service_id for row, _ in versions["instance"].values()})
    rows = [
        _told(kind, *versions[kind][key], names=names) for _, key, kind in found[:PAGE_SIZE] if key in versions[kind]
    ]
    return Changes(rows=rows, has_more=len(found) > PAGE_SIZE)


def _versions(model: Any, wanted: Wanted, of_service: Q) -> Any:
    rows = model.history.model.objects.order_by()
    if wanted.service:
        rows = rows.filter(of_service)
    if wanted.actor:
        rows = rows.filter(history_user_id=wanted.actor)
    if wanted.began:
        rows = rows.filter(history_date__gte=wanted.began)
    return rows


def _with_former(model: Any, keys: list[int]) -> dict[int, tuple[Any, Any]]:
    """These versions, each with the one before it or None. Two queries."""
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
    """What the services of these keys are or were called last. One query."""
    wanted = [key for key in keys if key is not None]
    if not wanted:
        return {}
    history = Service.history.model
    newest = history.objects.filter(id=OuterRef("id")).order_by("-history_id").values("history_id")[:1]
    rows = history.objects.filter(id__in=wanted, history_id=Subquery(newest)).order_by()
    return dict(rows.values_list("id", "name"))


def _told(kind: str, row: Any, former: Any, *, names: Mapping[int, str]) -> DeclarationChange:
    fields = [
        field.attname
        for field in row._meta.concrete_fields  # noqa: SLF001 - Django's documented API
        if field.attname not in _UNSHOWN
    ]
    if kind == "instance":
        fields.remove("service_id")
    changes = []
    if row.history_type != "-":
        for name in fields:
            before, after = getattr(former, name, None), getattr(row, name)
            if before != after and (former is not None or after not in ("", [], {}, None)):
                old = "" if former is None else in_words(before)
                changes.append(FieldChange(name=name.replace("_", " "), before=old, after=in_words(after)))
    return DeclarationChange(
        at=row.history_date,
        what=row.name if kind == "service" else row.consul_id,
        kind=kind,
        verb=TYPES.get(row.history_type, row.history_type),
        who=row.history_user_id,
        via=row.history_change_reason or "",
        service=row.name if kind == "service" else names.get(row.service_id, ""),
        key=f"{kind}-{row.history_id}",
        changes=changes,
    )
