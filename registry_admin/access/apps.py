"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class AccessConfig(AppConfig):
    """Logins and sessions."""

    name = "registry_admin.access"
    label = "access"
    verbose_name = "Access"

    def ready(self) -> None:
        """Puts the limits on the admin's login, and lets the watcher delete what has expired."""
        from django.contrib import admin  # noqa: PLC0415 - models must be loaded first
        from django.utils import timezone  # noqa: PLC0415

        from registry_admin.access import login_limits, signals  # noqa: F401, PLC0415
        from registry_admin.access.forms import LoginForm  # noqa: PLC0415
        from registry_admin.access.models import Session  # noqa: PLC0415
        from registry_admin.inventory.sync import runs  # noqa: PLC0415

        admin.site.login_form = LoginForm
        runs.register_history("sessions", lambda _before: Session.objects.filter(expire_date__lt=timezone.now()))
        runs.register_history("login_counts", lambda _before: login_limits.expired_counts(timezone.now()))
