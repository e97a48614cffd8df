"""What differs, item by item, and applying all or some of it."""

from __future__ import annotations

from django.http import HttpRequest

from registry_admin.dashboard.pages import Page, page


@page("view_service")
def drift(request: HttpRequest) -> Page:
    """To come."""
    return Page(name="drift", title="Drift")


@page("view_service")
def prune(request: HttpRequest) -> Page:
    """To come."""
    return Page(name="prune", title="Prune")
