"""The Django app."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """Pages about the registry, and the probes of this very process."""

    name = "registry_admin.dashboard"
