"""One service: what should be beside what is, and the buttons that mend it."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.utils import timezone

from registry_admin.dashboard.pages import Page, page
from registry_admin.dashboard.selectors import service as selectors
from registry_admin.dashboard.selectors.wording import page_number
from registry_admin.errors import InvalidValueError, RegistryError
from registry_admin.inventory import acting, services
from registry_admin.inventory.adoption import adopt, release
from registry_admin.inventory.maintenance import set_maintenance, try_checks
from registry_admin.inventory.models import Instance, ObservedInstance, Service, SyncRun
from registry_admin.inventory.passes import Pass
from registry_admin.inventory.telling import tell_handover, tell_outcomes


@page("view_service")
def service(request: HttpRequest, name: str) -> Page | HttpResponse:
    """Shows it; POST does what its `action` says, for whoever may."""
    if request.method == "POST":
        return _act(request, name)
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "POST"])
    window = request.GET.get("window", "")
    window = window if window in selectors.WINDOWS else "24h"
    number = page_number(request.GET)
    found = selectors.view(name, page=number, window=window, now=timezone.now())
    if found is None:
        return Page(name="service_missing", title="No such service", context={"name": name}, status=404)
    context = {
        "view": found,
        "window": window,
        "windows": list(selectors.WINDOWS),
        "page": number,
        "has_more": found.total > number * selectors.PAGE_SIZE,
    }
    return Page(name="service", title=found.name, context=context)


def _act(request: HttpRequest, name: str) -> HttpResponse:
    action = request.POST.get("action", "")
    if action not in _ACTIONS:
        messages.error(request, "Nothing was done: there is no such action.")
        return _back(name)
    permissions, act = _ACTIONS[action]
    if not request.user.has_perms([f"inventory.{permission}" for permission in permissions]):
        raise PermissionDenied
    try:
        return act(request, name) or _back(name)
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
    """One pass over it; also brings back instances that had left by themselves. Removing takes the permission to."""
    row = _declared(name)
    names = frozenset({row.name if row else name})
    may_prune = request.user.has_perm("inventory.prune_service")
    who = acting.current().name
    one_pass = Pass(trigger=SyncRun.Trigger.ACTION, actor=who, only=names, revive=names, prune=may_prune)
    tell_outcomes(request, [one_pass.make()])


def _switch(request: HttpRequest, name: str, *, enabled: bool) -> None:
    with services.collected_outcomes() as outcomes:
        changed = services.set_enabled(Service.objects.filter(name__iexact=name), enabled=enabled)
    word = "enabled" if enabled else "disabled"
    if changed:
        messages.success(request, f"{name} is {word}.")
    else:
        messages.info(request, f"{name} isn't declared, or is {word} already.")
    tell_outcomes(request, outcomes)


def _maintain(request: HttpRequest, name: str, *, enable: bool) -> None:
    chosen = request.POST.getlist("instance")
    if not chosen:
        chosen = list(Instance.objects.filter(service__name__iexact=name).values_list("consul_id", flat=True))
    done = set_maintenance(name, chosen, enable=enable, reason=request.POST.get("reason", ""))
    if done.done:
        word = "In maintenance" if enable else "Out of maintenance"
        messages.success(request, f"{word}: {', '.join(done.done[:10])}{' …' if len(done.done) > 10 else ''}.")
    for consul_id, why in list(done.refused.items())[:10]:
        messages.error(request, f"{consul_id}: {why}")
    if not done.done and not done.refused:
        messages.info(request, "It has no instance that could be put into maintenance.")


def _adopt(request: HttpRequest, name: str) -> None:
    rows = ObservedInstance.objects.filter(service_name__iexact=name)
    if chosen := request.POST.getlist("instance"):
        rows = rows.filter(consul_id__in=chosen)
    declared = Instance.objects.filter(consul_id__in=rows.values("consul_id")).values("consul_id")
    with services.collected_outcomes() as outcomes:
        tell_handover(request, adopt(rows.exclude(consul_id__in=declared)), verb="Declared as in Consul")
    tell_outcomes(request, outcomes)


def _release(request: HttpRequest, name: str) -> HttpResponse | None:
    if request.POST.get("confirmed") != "yes":
        messages.warning(request, "Nothing was released: tick the box that says so.")
        return None
    chosen = Service.objects.filter(name__iexact=name)
    handover = release(Service.objects.filter(pk__in=list(chosen.values_list("pk", flat=True))))
    tell_handover(request, handover, verb="Released, and left in Consul as they are")
    return None if _declared(name) or handover.done else redirect("dashboard:home")


def _try_check(request: HttpRequest, name: str) -> None:
    results = try_checks(name)
    for consul_id, answers, seen in results:
        messages.add_message(
            request, messages.SUCCESS if answers else messages.ERROR, f"Check of {consul_id}, tried from here: {seen}."
        )
    if not results:
        messages.info(request, "No instance is declared and enabled: there is nothing to try.")


_Act = Callable[[HttpRequest, str], HttpResponse | None]
_ACTIONS: dict[str, tuple[tuple[str, ...], _Act]] = {
    "sync": (("sync_service",), _sync),
    "enable": (("change_service",), lambda request, name: _switch(request, name, enabled=True)),
    "disable": (("change_service",), lambda request, name: _switch(request, name, enabled=False)),
    "maintenance_on": (("sync_service",), lambda request, name: _maintain(request, name, enable=True)),
    "maintenance_off": (("sync_service",), lambda request, name: _maintain(request, name, enable=False)),
    "adopt": (("add_service", "add_instance"), _adopt),
    "release": (("delete_service", "delete_instance"), _release),
    "try_check": (("sync_service",), _try_check),
}
