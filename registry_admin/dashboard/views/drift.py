"""Pages of differences: apply them, and remove instances that are no longer declared."""

from __future__ import annotations

from collections.abc import Collection

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from registry_admin.dashboard.selectors import drift as selectors
from registry_admin.dashboard.views.page import Page, page
from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.models import SyncRun
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.removals import MAY_REMOVE, approve_removals
from registry_admin.inventory.sync.result import SyncResult
from registry_admin.inventory.sync_messages import add_sync_messages
from registry_admin.reconcile.plan import Cause


@require_http_methods(["GET", "HEAD", "POST"])
@page("view_service")
def drift(request: HttpRequest) -> Page | HttpResponse:
    """Shows it; POST applies what was chosen, or everything but removals, for whoever may sync."""
    if request.method == "POST":
        return _apply(request)
    filters = selectors.DriftFilter.from_query(request.GET)
    drift_page = selectors.drift(filters)
    actions = [(action, word, drift_page.by_action.get(action, 0)) for action, word in selectors.ACTIONS.items()]
    context = {
        "drift": drift_page,
        "filters": filters,
        "actions": actions,
        "causes": _causes(drift_page),
    }
    return Page(name="drift", title="Drift", context=context)


def _causes(found: selectors.Drift) -> list[tuple[str, str, int]]:
    """The code, label and number of items of each cause, by label."""
    causes = [(code, Cause.label_of(code), number) for code, number in found.by_cause.items()]
    return sorted(causes, key=lambda cause: cause[1])


def _apply(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("inventory.sync_service"):
        raise PermissionDenied
    chosen: Collection[str] | None = None
    if request.POST.get("what") != "all":
        chosen = frozenset(request.POST.getlist("item"))
        if not chosen:
            messages.warning(request, "Nothing was applied: choose at least one item.")
            return redirect("dashboard:drift")
    reconciler = Reconciler(
        trigger=SyncRun.Trigger.ACTION,
        actor=current_actor().name,
        items=chosen,
        prune=False,
        may_remove=request.user.has_perm(MAY_REMOVE),
    )
    return _redirect_to_result(request, reconciler.run())


@require_http_methods(["GET", "HEAD", "POST"])
@page("view_service", "prune_service")
def prune(request: HttpRequest) -> Page | HttpResponse:
    """Shows owned instances that are no longer declared; POST removes exactly these."""
    drift_page = selectors.prunable()
    if request.method == "POST":
        return _prune(request, drift_page)
    return Page(name="prune", title="Prune", context={"prunable": drift_page, "shown": drift_page.rows[:200]})


def _prune(request: HttpRequest, prunable: selectors.Prunable) -> HttpResponse:
    preview = prunable.preview
    if request.POST.get("digest") != preview.digest:
        messages.warning(request, "Nothing was removed: what is to be removed has changed since. This is the new list.")
    elif not prunable.rows:
        messages.info(request, "There is nothing to remove.")
    elif not preview.is_confirmed_by(request.POST.get("phrase", "")):
        messages.error(request, f"Nothing was removed: type “{preview.phrase}” to confirm.")
    else:
        approve_removals(prunable.ids, counted=bool(preview.held))
        reconciler = Reconciler(
            trigger=SyncRun.Trigger.ACTION, actor=current_actor().name, items=prunable.ids, prune=True
        )
        return _redirect_to_result(request, reconciler.run())
    return redirect("dashboard:prune")


def _redirect_to_result(request: HttpRequest, outcome: SyncResult) -> HttpResponse:
    add_sync_messages(request, [outcome])
    return redirect("dashboard:sync-run", pk=outcome.run_id) if outcome.run_id else redirect("dashboard:drift")
