"""A page between choosing an action and doing it: what will happen, item by item."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from registry_admin.inventory.selectors import freshness

SHOWN = 200


def preview(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    chosen: QuerySet,
    items: Sequence[tuple[str, str]],
    *,
    meaning: str,
    button: str,
) -> HttpResponse | None:
    """The page, or None where the user has seen it and said yes. `items`: which, and what will happen to it."""
    if request.POST.get("confirmed") == "yes":
        return None
    context = {
        **model_admin.admin_site.each_context(request),
        "title": button.partition(", ")[2].capitalize(),
        "opts": model_admin.opts,
        "freshness": freshness(),
        "action": request.POST.get("action", ""),
        "selected": [str(key) for key in chosen.values_list("pk", flat=True)],
        "checkbox": ACTION_CHECKBOX_NAME,
        "items": items[:SHOWN],
        "more": max(0, len(items) - SHOWN),
        "meaning": meaning,
        "button": button,
    }
    return TemplateResponse(request, "admin/inventory/preview.html", context)
