"""The admin of observed instances: everything in the last snapshot of Consul, ours or not."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from registry_admin.inventory.admin.base import ReadOnlyAdmin, ValuesFilter
from registry_admin.inventory.admin.confirmation import confirmation_page
from registry_admin.inventory.models import HEALTHS, ObservedInstance
from registry_admin.inventory.sync import on_commit
from registry_admin.inventory.sync.adoption import adopt, preview_adoption
from registry_admin.inventory.sync_messages import add_handover_messages, add_sync_messages
from registry_admin.inventory.templatetags.registry import status_chip, visible


@admin.register(ObservedInstance)
class ObservedInstanceAdmin(ReadOnlyAdmin):
    """Lists observed instances, and adopts them."""

    change_form_template = "admin/inventory/change_form.html"
    list_display = [
        "consul_id", "service_name", "place", "node", "sync_status", "health", "health_since", "reason",
    ]  # fmt: skip
    list_filter = ["sync_status", "health", "registered_itself", ("owner", ValuesFilter), ("node", ValuesFilter)]
    actions = ["adopt"]
    search_fields = ["consul_id", "service_name", "address"]
    fields = [
        "consul_id", "service_name", "place", "node", "tags", "meta_lines", "weight", "owner", "registered_itself",
        "sync_reason", "health_chip", "health_since", "note", "check_outputs", "first_seen",
    ]  # fmt: skip

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> ObservedInstance | None:
        """Returns the row, with whether its health is current."""
        row: ObservedInstance | None = super().get_object(request, *args, **kwargs)
        if row is not None:
            row.is_current = self.freshness_of(request).is_current  # type: ignore[attr-defined]
        return row

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Adds the banner's text."""
        extra = {"freshness": self.freshness_of(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra)

    @admin.display(description="health")
    def health_chip(self, row: Any) -> SafeString:
        """Returns the health as a chip."""
        return status_chip(HEALTHS[row.health], current=row.is_current)

    def has_adopt_permission(self, request: HttpRequest) -> bool:
        """Returns whether the user may declare services and instances."""
        return request.user.has_perms(["inventory.add_service", "inventory.add_instance"])

    @admin.action(description="Adopt: declare as it is there", permissions=["adopt"])
    def adopt(self, request: HttpRequest, queryset: QuerySet[ObservedInstance]) -> HttpResponse | None:
        """Declares the chosen instances; the sync that follows marks them as ours."""
        is_confirmed = request.POST.get("confirmed") == "yes"
        items = [] if is_confirmed else [(item.consul_id, item.text) for item in preview_adoption(queryset)]
        explanation = (
            f"{queryset.count()} instance(s) will be declared here as they are in Consul, with the checks that they "
            "have. Where their service is declared already they get its check, its tags and its meta."
        )
        if page := confirmation_page(self, request, queryset, items, explanation=explanation, button="Yes, adopt them"):
            return page
        with on_commit.syncing_on_commit() as outcomes:
            add_handover_messages(request, adopt(queryset), verb="Declared as in Consul")
        add_sync_messages(request, outcomes)
        return None

    @admin.display(description="what is wrong", ordering="sync_reason")
    def reason(self, row: ObservedInstance) -> str:
        """Returns the reason why it isn't in sync, and the note if it flaps."""
        return "; ".join(text for text in (row.sync_reason, row.note) if text)

    @admin.display(description="address", ordering="address")
    def place(self, row: ObservedInstance) -> str:
        """Returns address and port, such as `127.0.0.1:8000`."""
        return f"{row.address}:{row.port}"

    @admin.display(description="meta")
    def meta_lines(self, row: ObservedInstance) -> str:
        """Returns the pairs as lines."""
        return "\n".join(visible(f"{key} = {value}") for key, value in sorted(row.meta.items()))

    @admin.display(description="checks")
    def check_outputs(self, row: ObservedInstance) -> str:
        """Returns each check with its escaped output."""
        return render_to_string("admin/inventory/checks.html", {"checks": row.checks})
