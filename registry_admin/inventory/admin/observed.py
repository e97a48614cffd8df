"""Everything in Consul, ours or not, as the last look found it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from registry_admin.inventory import services
from registry_admin.inventory.admin.base import ReadOnlyAdmin, ValuesFilter
from registry_admin.inventory.admin.previewing import preview
from registry_admin.inventory.adoption import adopt
from registry_admin.inventory.models import Health, ObservedInstance
from registry_admin.inventory.telling import tell_handover, tell_outcomes
from registry_admin.inventory.templatetags.registry import status_chip


@admin.register(ObservedInstance)
class ObservedInstanceAdmin(ReadOnlyAdmin):
    """Everything in Consul, ours or not."""

    change_form_template = "admin/inventory/change_form.html"
    list_display = [
        "consul_id", "service_name", "place", "node", "sync_status", "health", "health_since", "what_is_wrong",
    ]  # fmt: skip
    list_filter = ["sync_status", "health", "registered_itself", ("owner", ValuesFilter), ("node", ValuesFilter)]
    actions = ["adopt"]
    search_fields = ["consul_id", "service_name", "address"]
    fields = [
        "consul_id", "service_name", "place", "node", "tags", "shown_meta", "weight", "owner", "registered_itself",
        "sync_reason", "shown_health", "health_since", "note", "shown_checks", "first_seen",
    ]  # fmt: skip

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> ObservedInstance | None:
        """Knows whether its health is current."""
        row: ObservedInstance | None = super().get_object(request, *args, **kwargs)
        if row is not None:
            row.is_current = self.freshness_of(request).is_current  # type: ignore[attr-defined]
        return row

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """With the banner's text."""
        extra = {"freshness": self.freshness_of(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra)

    @admin.display(description="health")
    def shown_health(self, row: Any) -> SafeString:
        """As in the list."""
        return status_chip(row.health, Health, current=row.is_current)

    def has_adopt_permission(self, request: HttpRequest) -> bool:
        """Whoever may declare services."""
        return request.user.has_perms(["inventory.add_service", "inventory.add_instance"])

    @admin.action(description="Adopt: declare as it is there", permissions=["adopt"])
    def adopt(self, request: HttpRequest, queryset: QuerySet[ObservedInstance]) -> HttpResponse | None:
        """Declares the chosen instances; the sync that this sets off makes them ours."""
        told = queryset.values_list("consul_id", "service_name", "address", "port")
        items = [
            (key, f"declared as {name} at {address}:{port}, and marked as ours") for key, name, address, port in told
        ]
        meaning = f"{len(items)} instance(s) will be declared here as they are in Consul."
        if page := preview(self, request, queryset, items, meaning=meaning, button="Yes, adopt them"):
            return page
        with services.collected_outcomes() as outcomes:
            tell_handover(request, adopt(queryset), verb="Declared as in Consul")
        tell_outcomes(request, outcomes)
        return None

    @admin.display(description="what is wrong", ordering="sync_reason")
    def what_is_wrong(self, row: ObservedInstance) -> str:
        """Why it isn't in sync, and whether it flaps."""
        return "; ".join(text for text in (row.sync_reason, row.note) if text)

    @admin.display(description="address", ordering="address")
    def place(self, row: ObservedInstance) -> str:
        """`127.0.0.1:8000`"""
        return f"{row.address}:{row.port}"

    @admin.display(description="meta")
    def shown_meta(self, row: ObservedInstance) -> str:
        """As lines."""
        return "\n".join(f"{key} = {value}" for key, value in sorted(row.meta.items()))

    @admin.display(description="checks")
    def shown_checks(self, row: ObservedInstance) -> str:
        """Each with its output, escaped."""
        return render_to_string("admin/inventory/checks.html", {"checks": row.checks})
