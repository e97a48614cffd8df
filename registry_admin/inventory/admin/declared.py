"""Declarations, each beside what Consul has of it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, OuterRef, QuerySet, Subquery, URLField
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import ngettext

from registry_admin.errors import RegistryError
from registry_admin.inventory import acting, services
from registry_admin.inventory.admin.base import RegistryAdmin, ValuesFilter
from registry_admin.inventory.admin.importing import export_view, import_view
from registry_admin.inventory.admin.previewing import preview
from registry_admin.inventory.adoption import release
from registry_admin.inventory.doctor import examine
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
    list_display = ["name", "sync_status", "health", "instance_count", "owner", "enabled", "updated_at", "page"]
    list_filter = ["sync_status", "health", "enabled", "check_kind", ("owner", ValuesFilter)]
    search_fields = ["name", "description", "owner", "instances__address", "instances__consul_id"]
    search_help_text = "Name, description, owner, address or service ID"
    actions = ["sync_now", "enable", "disable", "release", "export"]
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
    change_list_template = "admin/inventory/service/change_list.html"

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

    @admin.display(description="live")
    def page(self, service: Service) -> SafeString:
        """The service's own page."""
        return format_html(
            '<a href="{}">Live page<span class="visually-hidden"> of {}</span></a>',
            reverse("dashboard:service", args=[service.name]), service.name,
        )  # fmt: skip

    def get_urls(self) -> list[URLPattern]:
        """Also the live pane by itself, import and export."""
        own = [
            path("<int:pk>/live/", self.admin_site.admin_view(self.live), name="inventory_service_live"),
            path("import/", self.admin_site.admin_view(import_view), name="inventory_service_import"),
            path("export/", self.admin_site.admin_view(export_view), name="inventory_service_export"),
        ]
        return [*own, *super().get_urls()]

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Every change with who made it, whichever way it was: the stock page knows only the admin's."""
        service = self.get_object(request, object_id)
        if service is None or not self.has_view_permission(request, service):
            return super().history_view(request, object_id, extra_context)
        return redirect(f"{reverse('dashboard:change-history')}?{urlencode({'service': service.name})}")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """With the way to import."""
        may_import = request.user.has_perms([f"inventory.{verb}_service" for verb in ("add", "change")])
        return super().changelist_view(request, {"may_import": may_import, **(extra_context or {})})

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:  # noqa: FBT001
        """Warns of what was saved and can't work as meant."""
        super().save_related(request, form, formsets, change)
        for advice in examine(form.instance, list(form.instance.instances.all()))[:10]:
            self.message_user(request, f"Saved, but look again. {advice}", messages.WARNING)

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

    @admin.action(description="Sync now", permissions=["sync"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """One pass over the chosen services; also brings back instances that had left by themselves."""
        chosen = _plain(queryset)
        rows = Instance.objects.filter(service__in=chosen).exclude(sync_status=SyncStatus.SYNCED)
        told = rows.order_by("service__name", "consul_id").values_list("consul_id", "sync_action", "sync_reason")
        items = [
            (key, f"{action or 'looked at again'}: {why}" if why else action or "looked at")
            for key, action, why in told
        ]
        meaning = "Consul is looked at, and made to match the declarations of the chosen services."
        if page := preview(self, request, chosen, items, meaning=meaning, button="Yes, sync them"):
            return page
        names = frozenset(chosen.values_list("name", flat=True))
        may_prune = request.user.has_perm("inventory.prune_service")
        who = acting.current().name
        one_pass = Pass(trigger=SyncRun.Trigger.ACTION, actor=who, only=names, revive=names, prune=may_prune)
        outcome = one_pass.make()
        tell_outcomes(request, [outcome])
        return redirect("dashboard:sync-run", pk=outcome.run) if outcome.run else None

    def has_sync_permission(self, request: HttpRequest) -> bool:
        """Operators."""
        return bool(request.user.has_perm("inventory.sync_service"))

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """Switches the chosen declarations on."""
        return self._switch(request, queryset, enabled=True)

    @admin.action(description="Disable: take out of Consul, keep here", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """Switches the chosen declarations off."""
        return self._switch(request, queryset, enabled=False)

    @admin.action(description="Release: keep in Consul, drop the declaration", permissions=["delete"])
    def release(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """Takes our mark off all instances of the chosen services and forgets their declarations."""
        chosen = _plain(queryset)
        rows = Instance.objects.filter(service__in=chosen).order_by("service__name", "consul_id")
        items = [
            (key, "stays in Consul as it is, without our mark") for key in rows.values_list("consul_id", flat=True)
        ]
        meaning = (
            f"The declarations of {chosen.count()} service(s) with {len(items)} instance(s) will be deleted here. "
            "In Consul everything stays as it is, but without this inventory's mark: it will be neither changed nor "
            "removed from here any more."
        )
        if page := preview(self, request, chosen, items, meaning=meaning, button="Yes, release them"):
            return page
        try:
            handover = release(chosen)
        except RegistryError as error:
            self.message_user(request, f"Nothing was released: {error}", messages.ERROR)
        else:
            tell_handover(request, handover, verb="Released, and left in Consul as they are")
        return None

    @admin.action(description="Export as YAML", permissions=["view"])
    def export(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse:
        """The chosen declarations as a download."""
        return export_view(request, _plain(queryset))

    def _switch(self, request: HttpRequest, queryset: QuerySet[Service], *, enabled: bool) -> HttpResponse | None:
        chosen = _plain(queryset)
        word = "enabled" if enabled else "disabled"
        what = "is registered in Consul" if enabled else "is taken out of Consul, and kept here"
        rows = Instance.objects.filter(service__in=chosen.exclude(enabled=enabled), enabled=True)
        items = [(key, what) for key in rows.order_by("consul_id").values_list("consul_id", flat=True)]
        items += [
            (name, f"is {word} already") for name in chosen.filter(enabled=enabled).values_list("name", flat=True)
        ]
        meaning = f"{chosen.exclude(enabled=enabled).count()} service(s) will be {word}."
        if page := preview(self, request, chosen, items, meaning=meaning, button=f"Yes, {word[:-1]} them"):
            return page
        changed = services.set_enabled(chosen, enabled=enabled)
        text = ngettext("%(n)d service was %(word)s.", "%(n)d services were %(word)s.", changed)
        self.message_user(request, text % {"n": changed, "word": word})
        return None


def _plain(queryset: QuerySet[Service]) -> QuerySet[Service]:
    """The chosen ones without the list's annotations and ordering."""
    return Service.objects.filter(pk__in=list(queryset.values_list("pk", flat=True)))


def _count(instances: QuerySet[Instance]) -> Coalesce:
    """How many of these a service has, as a subquery."""
    return Coalesce(Subquery(instances.values("service").annotate(n=Count("pk")).values("n")), 0)
