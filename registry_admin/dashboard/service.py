"""One service: what should be beside what is, and the buttons that mend it."""

from __future__ import annotations

from django.http import HttpRequest

from registry_admin.dashboard.pages import Page, page


@page("view_service")
def service(request: HttpRequest, name: str) -> Page:
    """To come."""
    return Page(name="service", title="Service")
