"""The Django app."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class InventoryConfig(AppConfig):
    """Declarations of services, the mirror of Consul, and the runs that sync the two."""

    name = "registry_admin.inventory"
    verbose_name = "Inventory"

    def ready(self) -> None:
        """Connects the signals and the system checks; both need loaded models."""
        from registry_admin.inventory import roles, signals, system_checks  # noqa: F401, PLC0415
        from registry_admin.inventory.models import triggers  # noqa: PLC0415

        post_migrate.connect(triggers.update_triggers, sender=self)
        post_migrate.connect(roles.make_groups, sender=self)
