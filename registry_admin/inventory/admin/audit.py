"""The admin of the audit trail: who did what, and who was refused."""

from __future__ import annotations

from django.contrib import admin

from registry_admin.inventory.admin.base import ReadOnlyAdmin
from registry_admin.inventory.models import AuditEvent
from registry_admin.printable import escape_unprintable


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """Lists the events. Only superusers see them, and whoever is given the permission: they name people's addresses."""

    list_display = ["when", "action", "actor", "via", "address", "target_text", "detail_text"]
    list_filter = ["action", "at"]
    search_fields = ["actor", "address", "target", "detail", "request_id"]
    fields = ["when", "action", "actor", "via", "address", "target_text", "detail_text", "request_id"]

    @admin.display(description="at", ordering="at")
    def when(self, event: AuditEvent) -> str:
        """Returns the time to the second."""
        return f"{event.at:%Y-%m-%d %H:%M:%S} UTC"

    @admin.display(description="target")
    def target_text(self, event: AuditEvent) -> str:
        """Returns the target on a single line."""
        return escape_unprintable(event.target)

    @admin.display(description="detail")
    def detail_text(self, event: AuditEvent) -> str:
        """Returns the detail on a single line."""
        return escape_unprintable(event.detail)
