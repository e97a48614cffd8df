"""Who calls whom."""

from __future__ import annotations

from django.http import HttpRequest

from registry_admin.dashboard.pages import Page, page


@page("view_service")
def service_map(request: HttpRequest) -> Page:
    """To come."""
    return Page(name="map", title="Map")
