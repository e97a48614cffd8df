"""What happened: changes of health, syncs, and changes of declarations."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.views.decorators.http import require_safe

from registry_admin.dashboard.pages import Page, page
from registry_admin.dashboard.selectors import history as selectors
from registry_admin.inventory.models import SyncRun

SHOWN_ITEMS = 200


@require_safe
@page("view_healthtransition")
def health(request: HttpRequest) -> Page:
    """How the health of instances went."""
    wanted = selectors.Wanted.of(request.GET)
    context = {"wanted": wanted, "listing": selectors.transitions(wanted), "afters": selectors.AFTER}
    return Page(name="health_history", title="History", context=_common() | context)


@require_safe
@page("view_syncrun")
def syncs(request: HttpRequest) -> Page:
    """What was done in Consul, by whose wish."""
    wanted = selectors.Wanted.of(request.GET)
    context = {
        "wanted": wanted,
        "listing": selectors.runs(wanted),
        "outcomes": SyncRun.Outcome,
        "triggers": SyncRun.Trigger,
    }
    return Page(name="sync_history", title="History", context=_common() | context)


@require_safe
@page("view_syncrun")
def sync_run(request: HttpRequest, pk: int) -> Page:  # noqa: ARG001 - a view gets it
    """One sync, item by item; what failed comes first."""
    run = SyncRun.objects.filter(pk=pk).first()
    if run is None:
        return Page(name="sync_run_missing", title="No such sync", status=404)
    items = sorted(run.items, key=lambda item: bool(item.get("ok", True)))
    context = {
        "run": run,
        "items": items[:SHOWN_ITEMS],
        "more": max(0, len(items) - SHOWN_ITEMS),
        "running": run.outcome == SyncRun.Outcome.RUNNING,
    }
    return Page(name="sync_run", title="Sync", context=context)


@require_safe
@page("view_service")
def changes(request: HttpRequest) -> Page:
    """Who changed which declaration, by which way, and from what to what."""
    wanted = selectors.Wanted.of(request.GET)
    context = {"wanted": wanted, "changes": selectors.declaration_changes(wanted)}
    return Page(name="change_history", title="History", context=_common() | context)


def _common() -> dict[str, Any]:
    return {"sinces": list(selectors.SINCE)}
