"""What differs, item by item: applying all or some of it, and removing what is no longer declared."""

from __future__ import annotations

from collections.abc import Collection

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from registry_admin.dashboard.pages import Page, page
from registry_admin.dashboard.selectors import drift as selectors
from registry_admin.inventory import acting
from registry_admin.inventory.models import SyncRun
from registry_admin.inventory.passes import Pass, SyncOutcome
from registry_admin.inventory.telling import tell_outcomes


@require_http_methods(["GET", "HEAD", "POST"])
@page("view_service")
def drift(request: HttpRequest) -> Page | HttpResponse:
    """Shows it; POST applies what was chosen, or everything but removals, for whoever may sync."""
    if request.method == "POST":
        return _apply(request)
    wanted = selectors.Wanted.of(request.GET)
    found = selectors.drift(wanted)
    actions = [(action, word, found.by_action.get(action, 0)) for action, word in selectors.ACTIONS.items()]
    context = {"drift": found, "wanted": wanted, "actions": actions, "causes": sorted(found.by_cause.items())}
    return Page(name="drift", title="Drift", context=context)


def _apply(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("inventory.sync_service"):
        raise PermissionDenied
    chosen: Collection[str] | None = None
    if request.POST.get("what") != "all":
        chosen = frozenset(request.POST.getlist("item"))
        if not chosen:
            messages.warning(request, "Nothing was applied: choose at least one item.")
            return redirect("dashboard:drift")
    one_pass = Pass(trigger=SyncRun.Trigger.ACTION, actor=acting.current().name, items=chosen, prune=False)
    return _told(request, one_pass.make())


@require_http_methods(["GET", "HEAD", "POST"])
@page("view_service", "prune_service")
def prune(request: HttpRequest) -> Page | HttpResponse:
    """What is owned and no longer declared; POST removes just what was shown, after the right words."""
    found = selectors.prunable()
    if request.method == "POST":
        return _prune(request, found)
    return Page(name="prune", title="Prune", context={"prunable": found, "shown": found.rows[:200]})


def _prune(request: HttpRequest, found: selectors.Prunable) -> HttpResponse:
    if request.POST.get("digest") != found.digest:
        messages.warning(request, "Nothing was removed: what is to be removed has changed since. This is the new list.")
    elif not found.rows:
        messages.info(request, "There is nothing to remove.")
    elif found.unsafe and " ".join(request.POST.get("phrase", "").split()).lower() != found.phrase:
        messages.error(request, f"Nothing was removed: type “{found.phrase}” to confirm.")
    else:
        who = acting.current().name
        one_pass = Pass(
            trigger=SyncRun.Trigger.ACTION, actor=who, items=found.ids, prune=True, force=bool(found.unsafe)
        )
        return _told(request, one_pass.make())
    return redirect("dashboard:prune")


def _told(request: HttpRequest, outcome: SyncOutcome) -> HttpResponse:
    tell_outcomes(request, [outcome])
    return redirect("dashboard:sync-run", pk=outcome.run) if outcome.run else redirect("dashboard:drift")
