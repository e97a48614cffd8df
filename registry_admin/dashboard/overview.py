"""All services at a glance: what needs attention first."""

from __future__ import annotations

from django.http import HttpRequest

from registry_admin.dashboard.pages import Page, page


@page("view_service")
def overview(request: HttpRequest) -> Page:
    """To come."""
    return Page(name="overview", title="Services")
