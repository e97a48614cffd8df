"""The confirmation page of an action: lists its effect item by item before it is carried out."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from registry_admin.inventory.removal_confirmation import FIELD, refused_right, removal_refusal
from registry_admin.inventory.selectors import freshness
from registry_admin.inventory.sync.removals import RemovalPreview

MAX_ITEMS = 200
NO_REMOVALS = RemovalPreview(removals=())


def confirmation_page(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    chosen: QuerySet,
    items: Sequence[tuple[str, str]],
    *,
    explanation: str,
    button: str,
    removals: RemovalPreview = NO_REMOVALS,
) -> HttpResponse | None:
    """Returns the page, or None once the user has confirmed it. `items` are (ID, effect).

    `removals`: what would leave Consul; a user who may not remove that is sent back, and one who may confirms the
    number where the brake would hold it.
    """
    if refusal := refused_right(request, removals):
        messages.error(request, f"Nothing was done. {refusal}")
        return redirect(request.get_full_path())
    is_confirmed = request.POST.get("confirmed") == "yes"
    if is_confirmed and (refusal := removal_refusal(request, removals)):
        messages.error(request, f"Nothing was done. {refusal}")
    elif is_confirmed:
        return None
    context = {
        **model_admin.admin_site.each_context(request),
        "title": button.partition(", ")[2].capitalize(),
        "opts": model_admin.opts,
        "freshness": freshness(),
        "action": request.POST.get("action", ""),
        "selected": [str(key) for key in chosen.values_list("pk", flat=True)],
        "checkbox": ACTION_CHECKBOX_NAME,
        "items": items[:MAX_ITEMS],
        "more": max(0, len(items) - MAX_ITEMS),
        "explanation": explanation,
        "button": button,
        "removals": removals,
        "removals_field": FIELD,
    }
    return TemplateResponse(request, "admin/inventory/confirmation.html", context)
