"""Pages of history: changes of health, sync runs, and changes of declarations."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.views.decorators.http import require_safe

from registry_admin.dashboard.selectors import history as selectors
from registry_admin.dashboard.views.page import Page, page
from registry_admin.inventory.models import SyncRun

MAX_ITEMS = 200


@require_safe
@page("view_healthtransition")
def health(request: HttpRequest) -> Page:
    """Shows changes of health."""
    filters = selectors.HistoryFilter.from_query(request.GET)
    context = {"wanted": filters, "listing": selectors.transitions(filters), "afters": selectors.HEALTHS_AFTER}
    return Page(name="health_history", title="History", context=_common() | context)


@require_safe
@page("view_syncrun")
def syncs(request: HttpRequest) -> Page:
    """Shows sync runs."""
    filters = selectors.HistoryFilter.from_query(request.GET)
    context = {
        "wanted": filters,
        "listing": selectors.runs(filters),
        "outcomes": SyncRun.Outcome,
        "triggers": SyncRun.Trigger,
    }
    return Page(name="sync_history", title="History", context=_common() | context)


@require_safe
@page("view_syncrun")
def sync_run(request: HttpRequest, pk: int) -> Page:  # noqa: ARG001 - a view gets it
    """Shows one sync run item by item, failed items first."""
    run = SyncRun.objects.filter(pk=pk).first()
    if run is None:
        return Page(name="sync_run_missing", title="No such sync", status=404)
    items = sorted(run.items, key=lambda item: bool(item.get("ok", True)))
    context = {
        "run": run,
        "items": items[:MAX_ITEMS],
        "more": max(0, len(items) - MAX_ITEMS),
        "running": run.outcome == SyncRun.Outcome.RUNNING,
    }
    return Page(name="sync_run", title="Sync", context=context)


@require_safe
@page("view_service")
def changes(request: HttpRequest) -> Page:
    """Shows changes of declarations: author, way, and values before and after."""
    filters = selectors.HistoryFilter.from_query(request.GET)
    context = {"wanted": filters, "changes": selectors.declaration_changes(filters)}
    return Page(name="change_history", title="History", context=_common() | context)


def _common() -> dict[str, Any]:
    return {"sinces": list(selectors.SINCE)}
