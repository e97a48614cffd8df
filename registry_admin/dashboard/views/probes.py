"""The probes: whether this process lives, and whether it can do its work."""

from __future__ import annotations

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from registry_admin.inventory.selectors.readiness import readiness_problem


@never_cache
@require_safe
def health(_request: HttpRequest) -> JsonResponse:
    """200 as long as the process answers. Asks nothing of anything else, so that their faults don't take it out."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def ready(_request: HttpRequest) -> JsonResponse:
    """200 if the database can be written and has all migrations, else 503 with the reason.

    Consul isn't asked: pages work without it, from the mirror.
    """
    try:
        problem = readiness_problem()
    except (DatabaseError, InterfaceError) as error:
        problem = type(error).__name__  # its text can hold the database's address and user
    if problem:
        return JsonResponse({"status": "unavailable", "database": problem}, status=503)
    return JsonResponse({"status": "ok"})
