"""Django app that registers its project in Consul while it serves: add `registry_admin.autoregister`."""

from __future__ import annotations

from django.apps import AppConfig

from registry_admin.discovery.registration.registration import Registration


class AutoregisterConfig(AppConfig):
    """App without models. `registration` is that of this process, or None if it doesn't serve."""

    name = "registry_admin.autoregister"
    verbose_name = "Self-registration"
    registration: Registration | None = None

    def ready(self) -> None:
        """Starts the registration; called by Django when all apps are loaded."""
        from registry_admin.autoregister import start, system_checks  # noqa: F401, PLC0415 - need loaded settings

        self.registration = start.register_if_serving()
