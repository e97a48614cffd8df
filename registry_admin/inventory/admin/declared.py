"""Declarations, each beside what Consul has of it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, OuterRef, QuerySet, Subquery, URLField
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import ngettext

from registry_admin.errors import RegistryError
from registry_admin.inventory import services
from registry_admin.inventory.admin.base import RegistryAdmin, actor
from registry_admin.inventory.adoption import release
from registry_admin.inventory.forms import InstanceForm, InstanceFormSet, ServiceForm
from registry_admin.inventory.live import live_view
from registry_admin.inventory.models import Instance, Service, SyncRun, SyncStatus
from registry_admin.inventory.passes import Pass
from registry_admin.inventory.selectors import service_pane
from registry_admin.inventory.telling import tell_handover, tell_outcomes


class InstanceInline(admin.TabularInline):
    """The instances of a service, edited with it."""

    model = Instance
    form = InstanceForm
    formset = InstanceFormSet
    extra = 0
    min_num = 0
    fields = ["address", "port", "consul_id", "weight", "extra_tags", "extra_meta", "enabled"]
    verbose_name_plural = "instances"


@admin.register(Service)
class ServiceAdmin(RegistryAdmin):
    """Declarations."""

    form = ServiceForm
    inlines = [InstanceInline]
    list_display = ["name", "sync_status", "health", "instance_count", "owner", "enabled", "updated_at"]
    list_filter = ["sync_status", "health", "enabled", "check_kind", "owner"]
    search_fields = ["name", "description", "owner", "instances__address", "instances__consul_id"]
    search_help_text = "Name, description, owner, address or service ID"
    actions = ["sync_now", "enable", "disable", "release"]
    save_on_top = True
    formfield_overrides = {URLField: {"assume_scheme": "https"}}
    fieldsets = [
        (None, {"fields": ["name", "description", "owner", "documentation_url", "enabled"]}),
        ("Tags and meta", {"fields": ["tags", "meta"]}),
        (
            "Health check",
            {
                "fields": [
                    ("check_kind", "check_scheme", "check_path"),
                    ("check_interval", "check_timeout", "deregister_after"),
                ],
                "description": "The same for every instance. Durations need a unit, such as 10s or 1m30s.",
            },
        ),
    ]
    change_form_template = "admin/inventory/service/change_form.html"

    class Media:
        js = ["inventory/vendor/idiomorph.min.js", "inventory/live.js"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Service]:
        """With the number of instances, in the same query; not by a join, which a search would multiply."""
        enabled = Instance.objects.filter(service=OuterRef("pk"), enabled=True).order_by()
        found: QuerySet[Service] = super().get_queryset(request)
        return found.annotate(
            declared_count=_count(enabled), synced_count=_count(enabled.filter(sync_status=SyncStatus.SYNCED))
        )

    @admin.display(description="instances in sync")
    def instance_count(self, service: Any) -> str:
        """`2 of 3`"""
        return f"{service.synced_count} of {service.declared_count}" if service.declared_count else "none declared"

    def get_urls(self) -> list[URLPattern]:
        """Also the live pane, by itself."""
        pane = path("<int:pk>/live/", self.admin_site.admin_view(self.live), name="inventory_service_live")
        return [pane, *super().get_urls()]

    def live(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The live pane alone, for whoever may view the service; 304 where nothing changed."""
        return live_view(request, pk, may_view=self.has_view_permission(request))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The form, below the live pane."""
        pane = service_pane(int(object_id)) if object_id.isascii() and object_id.isdigit() else None
        extra = {"pane": pane, "freshness": self.freshness_of(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Tells what came of the sync that saving has set off."""
        with services.collected_outcomes() as outcomes:
            response = super().changeform_view(request, *args, **kwargs)
        tell_outcomes(request, outcomes)
        return response

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Tells what came of the sync that deleting has set off."""
        with services.collected_outcomes() as outcomes:
            response = super().delete_view(request, *args, **kwargs)
        tell_outcomes(request, outcomes)
        return response

    def response_action(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Tells what came of the syncs that an action has set off."""
        with services.collected_outcomes() as outcomes:
            response = super().response_action(request, *args, **kwargs)
        tell_outcomes(request, outcomes)
        return response

    @admin.action(description="Sync now", permissions=["change"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[Service]) -> None:
        """One pass over the chosen services; also brings back instances that had left by themselves."""
        names = frozenset(queryset.values_list("name", flat=True))
        outcome = Pass(trigger=SyncRun.Trigger.ACTION, actor=actor(request), only=names, revive=names).make()
        tell_outcomes(request, [outcome])

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Service]) -> None:
        """Switches the chosen declarations on."""
        self._switch(request, queryset, enabled=True)

    @admin.action(description="Disable: take out of Consul, keep here", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Service]) -> None:
        """Switches the chosen declarations off."""
        self._switch(request, queryset, enabled=False)

    @admin.action(description="Release: keep in Consul, drop the declaration", permissions=["delete"])
    def release(self, request: HttpRequest, queryset: QuerySet[Service]) -> TemplateResponse | None:
        """Asks first; then takes our mark off all instances of the chosen services and forgets their declarations."""
        chosen = Service.objects.filter(pk__in=queryset.values("pk"))
        if "confirmed" not in request.POST:
            context = {
                **self.admin_site.each_context(request),
                "title": "Release services",
                "opts": self.opts,
                "action": "release",
                "services": chosen,
                "instances": Instance.objects.filter(service__in=chosen).count(),
            }
            return TemplateResponse(request, "admin/inventory/release.html", context)
        try:
            handover = release(chosen)
        except RegistryError as error:
            self.message_user(request, f"Nothing was released: {error}", messages.ERROR)
        else:
            tell_handover(request, handover, verb="Released, and left in Consul as they are")
        return None

    def _switch(self, request: HttpRequest, queryset: QuerySet[Service], *, enabled: bool) -> None:
        word = "enabled" if enabled else "disabled"
        changed = services.set_enabled(Service.objects.filter(pk__in=queryset.values("pk")), enabled=enabled)
        text = ngettext("%(n)d service was %(word)s.", "%(n)d services were %(word)s.", changed)
        self.message_user(request, text % {"n": changed, "word": word})


def _count(instances: QuerySet[Instance]) -> Coalesce:
    """How many of these a service has, as a subquery."""
    return Coalesce(Subquery(instances.values("service").annotate(n=Count("pk")).values("n")), 0)
