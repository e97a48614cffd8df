"""The Django app."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class InventoryConfig(AppConfig):
    """Declarations of services, what Consul was seen to have, and the runs that brought them together."""

    name = "registry_admin.inventory"
    verbose_name = "Inventory"

    def ready(self) -> None:
        """Connects the signals and the system checks."""
        from registry_admin.inventory import checks, roles, signals  # noqa: F401, PLC0415 - models must be loaded first

        post_migrate.connect(roles.make_groups, sender=self)
