"""The page for a request that couldn't use the database: 503, with what has happened and what to do."""

from __future__ import annotations

from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import HttpResponse
from django.template.loader import render_to_string

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.database import error_text

RETRY_AFTER_S = 5


def unavailable_page(error: BaseException | None, context: dict[str, str]) -> HttpResponse | None:
    """Returns the page, or None for an error of another kind. It asks the database nothing for itself."""
    if not isinstance(error, OperationalError | InterfaceError | DatabaseUnavailableError):
        return None
    page = render_to_string("access/unavailable.html", {**context, "text": _reason(error)})
    return HttpResponse(page, status=503, headers={"Retry-After": str(RETRY_AFTER_S), "Cache-Control": "no-store"})


def _reason(error: Exception) -> str:
    """Returns what PostgreSQL has refused. Another fault's text can hold the database's address and user."""
    database_error = error.__cause__ if isinstance(error, DatabaseUnavailableError) else error
    if isinstance(database_error, DatabaseError) and getattr(database_error.__cause__, "sqlstate", None):
        return error_text(database_error)
    return "it can't be reached."
