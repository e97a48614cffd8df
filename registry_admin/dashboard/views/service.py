"""The page of a service: declared beside live state, and the actions."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.utils import timezone

from registry_admin.dashboard.selectors import service as selectors
from registry_admin.dashboard.selectors.query import page_number
from registry_admin.dashboard.views.page import Page, page
from registry_admin.errors import InvalidValueError, RegistryError
from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.models import Instance, ObservedInstance, Service, SyncRun
from registry_admin.inventory.removal_confirmation import refused_right
from registry_admin.inventory.sync import on_commit
from registry_admin.inventory.sync.adoption import adopt
from registry_admin.inventory.sync.maintenance import probe_checks, set_maintenance
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.release import release
from registry_admin.inventory.sync.removals import MAY_REMOVE, ids_of_services, preview_removals
from registry_admin.inventory.sync_messages import add_handover_messages, add_sync_messages
from registry_admin.printable import escape_unprintable


@page("view_service")
def service(request: HttpRequest, name: str) -> Page | HttpResponse:
    """Shows it; POST does what its `action` says, for whoever may."""
    if request.method == "POST":
        return _perform(request, name)
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "POST"])
    window = request.GET.get("window", "")
    window = window if window in selectors.WINDOWS else "24h"
    number = page_number(request.GET)
    service_view = selectors.view(name, page=number, window=window, now=timezone.now())
    if service_view is None:
        return Page(name="service_missing", title="No such service", context={"name": name}, status=404)
    context = {
        "view": service_view,
        "window": window,
        "windows": list(selectors.WINDOWS),
        "page": number,
        "has_more": service_view.total > number * selectors.PAGE_SIZE,
    }
    return Page(name="service", title=escape_unprintable(service_view.name), context=context)


def _perform(request: HttpRequest, name: str) -> HttpResponse:
    action = request.POST.get("action", "")
    if action not in _ACTIONS:
        messages.error(request, "Nothing was done: there is no such action.")
        return _back(name)
    permissions, perform = _ACTIONS[action]
    if not request.user.has_perms([f"inventory.{permission}" for permission in permissions]):
        raise PermissionDenied
    try:
        return perform(request, name) or _back(name)
    except InvalidValueError as error:
        messages.error(request, f"{error.field}: {error.reason}.")
    except RegistryError as error:
        messages.error(request, str(error))
    return _back(name)


def _back(name: str) -> HttpResponse:
    return redirect("dashboard:service", name=name)


def _declared(name: str) -> Service | None:
    return Service.objects.filter(name__iexact=name).first()


def _sync(request: HttpRequest, name: str) -> None:
    """Syncs it; also registers instances that had left by themselves. Removes only with the permission to prune."""
    row = _declared(name)
    names = frozenset({row.name if row else name})
    may_prune = request.user.has_perm(MAY_REMOVE)
    actor = current_actor().name
    reconciler = Reconciler(
        trigger=SyncRun.Trigger.ACTION,
        actor=actor,
        only=names,
        restore=names,
        prune=may_prune,
        may_remove=may_prune,
    )
    add_sync_messages(request, [reconciler.run()])


def _switch(request: HttpRequest, name: str, *, enabled: bool) -> None:
    chosen = Service.objects.filter(name__iexact=name)
    if not enabled:
        removals = preview_removals(ids_of_services(chosen.values_list("pk", flat=True)))
        if refusal := refused_right(request, removals):
            messages.error(request, f"{name} was not disabled. {refusal}")
            return
        if removals.held:
            messages.error(
                request,
                f"{name} was not disabled. The brake holds it, because {removals.held}. If it is meant, choose Disable "
                "in the list of services, which asks for the number.",
            )
            return
    with on_commit.syncing_on_commit() as outcomes:
        changed = on_commit.set_enabled(chosen, enabled=enabled)
    word = "enabled" if enabled else "disabled"
    if changed:
        messages.success(request, f"{name} is {word}.")
    else:
        messages.info(request, f"{name} isn't declared, or is {word} already.")
    add_sync_messages(request, outcomes)


def _maintain(request: HttpRequest, name: str, *, enable: bool) -> None:
    chosen = request.POST.getlist("instance")
    if not chosen:
        chosen = list(Instance.objects.filter(service__name__iexact=name).values_list("consul_id", flat=True))
    done = set_maintenance(name, chosen, enable=enable, reason=request.POST.get("reason", ""))
    if done.done:
        word = "In maintenance" if enable else "Out of maintenance"
        messages.success(request, f"{word}: {', '.join(done.done[:10])}{' …' if len(done.done) > 10 else ''}.")
    for consul_id, reason in list(done.refused.items())[:10]:
        messages.error(request, f"{consul_id}: {reason}")
    if not done.done and not done.refused:
        messages.info(request, "It has no instance that could be put into maintenance.")


def _adopt(request: HttpRequest, name: str) -> None:
    rows = ObservedInstance.objects.filter(service_name__iexact=name)
    if chosen := request.POST.getlist("instance"):
        rows = rows.filter(consul_id__in=chosen)
    declared = Instance.objects.filter(consul_id__in=rows.values("consul_id")).values("consul_id")
    with on_commit.syncing_on_commit() as outcomes:
        handover = adopt(rows.exclude(consul_id__in=declared), accept_changes=False)
        add_handover_messages(request, handover, verb="Declared as in Consul")
    add_sync_messages(request, outcomes)


def _release(request: HttpRequest, name: str) -> HttpResponse | None:
    if request.POST.get("confirmed") != "yes":
        messages.warning(request, "Nothing was released: tick the box that says so.")
        return None
    chosen = Service.objects.filter(name__iexact=name)
    handover = release(Service.objects.filter(pk__in=list(chosen.values_list("pk", flat=True))))
    add_handover_messages(request, handover, verb="Released, and left in Consul as they are")
    return None if _declared(name) or handover.done else redirect("dashboard:home")


def _try_check(request: HttpRequest, name: str) -> None:
    results = probe_checks(name)
    for consul_id, answers, outcome in results:
        messages.add_message(
            request,
            messages.SUCCESS if answers else messages.ERROR,
            f"Check of {consul_id}, tried from here: {outcome}.",
        )
    if not results:
        messages.info(request, "No instance is declared and enabled: there is nothing to try.")


_Action = Callable[[HttpRequest, str], HttpResponse | None]
_ACTIONS: dict[str, tuple[tuple[str, ...], _Action]] = {
    "sync": (("sync_service",), _sync),
    "enable": (("change_service",), lambda request, name: _switch(request, name, enabled=True)),
    "disable": (("change_service",), lambda request, name: _switch(request, name, enabled=False)),
    "maintenance_on": (("sync_service",), lambda request, name: _maintain(request, name, enable=True)),
    "maintenance_off": (("sync_service",), lambda request, name: _maintain(request, name, enable=False)),
    "adopt": (("add_service", "add_instance"), _adopt),
    "release": (("delete_service", "delete_instance"), _release),
    "try_check": (("sync_service",), _try_check),
}
