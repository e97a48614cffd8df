"""What happened: changes of health, syncs, and changes of declarations."""

from __future__ import annotations

from django.http import HttpRequest

from registry_admin.dashboard.pages import Page, page


@page("view_service")
def health(request: HttpRequest) -> Page:
    """To come."""
    return Page(name="health_history", title="History")


@page("view_service")
def syncs(request: HttpRequest) -> Page:
    """To come."""
    return Page(name="sync_history", title="History")


@page("view_service")
def sync_run(request: HttpRequest, pk: int) -> Page:
    """To come."""
    return Page(name="sync_run", title="Sync")


@page("view_service")
def changes(request: HttpRequest) -> Page:
    """To come."""
    return Page(name="change_history", title="History")
