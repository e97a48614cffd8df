"""Whether the user of a request may remove what the request would remove, and has confirmed it."""

from __future__ import annotations

from django.http import HttpRequest

from registry_admin.inventory.audit_trail import record_refusal
from registry_admin.inventory.models import AuditEvent
from registry_admin.inventory.sync.removals import MAY_REMOVE, RemovalPreview

FIELD = "removals"  # of a form: the typed text that confirms the number of removals


def removal_refusal(request: HttpRequest, preview: RemovalPreview) -> str:
    """Returns why the request is refused before anything is saved; empty where it isn't."""
    if no_right := refused_right(request, preview):
        return no_right
    if preview.is_confirmed_by(request.POST.get(FIELD, "")):
        return ""
    return f"The brake holds this, because {preview.held}. If it is meant, type “{preview.phrase}” to confirm it."


def refused_right(request: HttpRequest, preview: RemovalPreview) -> str:
    """Returns the same as `missing_right`, and records that somebody has tried."""
    if no_right := missing_right(request, preview):
        target = f"{request.method} {request.path}"
        record_refusal(AuditEvent.Action.PERMISSION_REFUSED, target=target, detail=no_right)
    return no_right


def missing_right(request: HttpRequest, preview: RemovalPreview) -> str:
    """Returns what to tell a user who may not remove this from Consul; empty where nothing leaves Consul."""
    return "" if not preview.removals or request.user.has_perm(MAY_REMOVE) else preview.no_right
