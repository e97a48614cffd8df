"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class CallGraphConfig(AppConfig):
    """Reports of calls between services."""

    name = "registry_admin.callgraph"
    label = "callgraph"
    verbose_name = "Call graph"

    def ready(self) -> None:
        """Lets prune_history and the watcher delete old counts."""
        from registry_admin.callgraph.models import CallCount  # noqa: PLC0415 - models must be loaded first
        from registry_admin.inventory.sync import runs  # noqa: PLC0415

        runs.register_history("calls", lambda before: CallCount.objects.filter(at__lt=before))
