"""The pages of refusals and errors, and the change of one's own password."""

from __future__ import annotations

import sys

from django.contrib import admin
from django.contrib.auth.views import PasswordChangeView
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string
from django.urls import reverse
from django.views import csrf, defaults
from django.views.decorators.csrf import requires_csrf_token

from registry_admin.access.forms import PasswordChangeForm
from registry_admin.access.unavailable import unavailable_page
from registry_admin.inventory.audit_trail import record_refusal
from registry_admin.inventory.models import AuditEvent
from registry_admin.request_context import current_request


@requires_csrf_token
def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answers 403, and records who was refused what."""
    record_refusal(AuditEvent.Action.PERMISSION_REFUSED, target=_target(request))
    return defaults.permission_denied(request, exception)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answers 403 to a form that isn't ours, and records it (CSRF_FAILURE_VIEW)."""
    record_refusal(AuditEvent.Action.CSRF_REFUSED, target=_target(request), detail=reason)
    return csrf.csrf_failure(request, reason=reason)


def server_error(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - Django hands it in
    """Answers 500 with the request's ID, by which the log has the traceback, or 503 where the database is away.

    Asks nothing of the database.
    """
    context = {"request_id": current_request().request_id}
    return unavailable_page(sys.exc_info()[1], context) or HttpResponse(
        render_to_string("access/500.html", context), status=500
    )


def password_change(request: HttpRequest) -> HttpResponseBase:
    """Changes one's own password, as the admin does, with limits."""
    return PasswordChangeView.as_view(
        form_class=PasswordChangeForm,
        success_url=reverse("admin:password_change_done"),
        extra_context=admin.site.each_context(request),
    )(request)


def _target(request: HttpRequest) -> str:
    return f"{request.method} {request.path}"
