"""Add `registry_admin.autoregister` to INSTALLED_APPS, and the project registers itself in Consul when it serves."""

from __future__ import annotations

from django.apps import AppConfig

from registry_admin.discovery.registration import Registration


class AutoregisterConfig(AppConfig):
    """An app without models; `registration` is this process's own, or None where it doesn't serve."""

    name = "registry_admin.autoregister"
    verbose_name = "Self-registration"
    registration: Registration | None = None

    def ready(self) -> None:
        """Called by Django when everything is loaded."""
        from registry_admin.autoregister import checks, services  # noqa: F401, PLC0415 - settings are ready only now

        self.registration = services.register_if_serving()
