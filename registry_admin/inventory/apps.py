"""The Django app."""

from django.apps import AppConfig


class InventoryConfig(AppConfig):
    """Declarations of services, what Consul was seen to have, and the runs that brought them together."""

    name = "registry_admin.inventory"
    verbose_name = "Inventory"

    def ready(self) -> None:
        """Connects the signals and the system checks."""
        from registry_admin.inventory import checks, signals  # noqa: F401, PLC0415 - models must be loaded first
