"""Takes the reports of who calls whom. Modules ask it, not people: with a token, and without cookies."""

from __future__ import annotations

import json
from hmac import compare_digest

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from registry_admin.errors import InvalidValueError, StoreUnavailableError
from registry_admin.inventory.calls import CallsReport, add_calls
from registry_admin.inventory.store import database_errors

MAX_BYTES = 128 * 1024


@csrf_exempt  # no cookie is looked at
@require_POST
def report(request: HttpRequest) -> HttpResponse:
    """204; 404 where no token is set up, 401 for a wrong one, 400 or 413 for a body that isn't a report."""
    token = settings.REGISTRY_REPORT_TOKEN
    if not token:
        return _refused(404, "call reports are not set up here: REGISTRY_REPORT_TOKEN is not set")
    given = request.headers.get("Authorization", "")
    if not compare_digest(given.encode(), f"Bearer {token}".encode()):
        return _refused(401, "give the token as 'Authorization: Bearer …'")
    length = request.headers.get("Content-Length", "")
    if not length.isdigit() or int(length) > MAX_BYTES:
        return _refused(413, f"give a body of at most {MAX_BYTES} bytes")
    try:
        add = CallsReport.of(json.loads(request.body))
    except InvalidValueError as error:
        return _refused(400, f"{error.field}: {error.reason}")
    except (ValueError, RecursionError):
        return _refused(400, "the body is no JSON")
    try:
        with database_errors():
            add_calls(add)
    except StoreUnavailableError:
        return _refused(503, "the database is away")
    return HttpResponse(status=204)


def _refused(status: int, why: str) -> JsonResponse:
    return JsonResponse({"error": why}, status=status)
