"""Receives reports of calls from modules, which authenticate with a token and without cookies."""

from __future__ import annotations

import json
from dataclasses import replace

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from registry_admin.callgraph import tokens
from registry_admin.callgraph.models import ModuleToken
from registry_admin.callgraph.reports import CallsReport, add_calls, is_full
from registry_admin.errors import DatabaseUnavailableError, InvalidValueError
from registry_admin.inventory.audit_trail import record_refusal
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.models import AuditEvent

MAX_BYTES = 128 * 1024
RETRY_AFTER_S = 60


@csrf_exempt  # no cookie is looked at
@require_POST
def report(request: HttpRequest) -> HttpResponse:
    """204; 401 without a token, 429 beyond its quota, 400 or 413 for no report, 403 for another module's."""
    try:
        with database_errors():
            return _report(request)
    except DatabaseUnavailableError:
        return _refused(503, "the database is away")


def _report(request: HttpRequest) -> HttpResponse:
    token = tokens.recognize_token(
        request.headers.get("Authorization", ""), shared_token=settings.REGISTRY_REPORT_TOKEN
    )
    if token is None:
        return _refused(401, "give the module's token as 'Authorization: Bearer …'", **{"WWW-Authenticate": "Bearer"})
    if not tokens.take_report(token, now=timezone.now()):
        return _too_many("reports within a minute")
    length = request.headers.get("Content-Length", "")
    if not (length.isascii() and length.isdigit()) or int(length) > MAX_BYTES:
        return _refused(413, f"give a body of at most {MAX_BYTES} bytes")
    try:
        calls = CallsReport.from_json(json.loads(request.body))
    except InvalidValueError as error:
        return _refused(400, f"{error.field}: {error.reason}")
    except (ValueError, RecursionError):
        return _refused(400, "the body is no JSON")
    if refusal := _identity_problem(token, calls.caller):
        record_refusal(
            AuditEvent.Action.PERMISSION_REFUSED, actor=f"module {token.module}", target=calls.caller, detail=refusal
        )
        return _refused(403, refusal)
    if is_full(token.module):
        return _too_many("pairs of services within five minutes")
    add_calls(replace(calls, caller=token.module or calls.caller))
    return HttpResponse(status=204)


def _identity_problem(token: ModuleToken, caller: str) -> str:
    if token.module:
        return "" if caller.lower() == token.module.lower() else f"this token speaks for {token.module} only"
    return f"{caller} has a token of its own: report with that one" if tokens.has_own_token(caller) else ""


def _too_many(what: str) -> JsonResponse:
    return _refused(429, f"too many {what}", **{"Retry-After": str(RETRY_AFTER_S)})


def _refused(status: int, reason: str, **headers: str) -> JsonResponse:
    return JsonResponse({"error": reason}, status=status, headers=headers)
