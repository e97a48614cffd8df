"""The admin of declarations: services with their instances, and the actions on them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
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
from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.admin.base import RegistryAdmin, ValuesFilter
from registry_admin.inventory.admin.confirmation import NO_REMOVALS, confirmation_page
from registry_admin.inventory.admin.forms import InstanceForm, InstanceFormSet, ServiceForm, service_fieldsets
from registry_admin.inventory.admin.import_export import export_view, import_view
from registry_admin.inventory.exchange.formats import DEFAULT_FORMAT, OWN_FORMATS
from registry_admin.inventory.lint import lint_declaration
from registry_admin.inventory.models import Instance, Service, SyncRun, SyncStatus
from registry_admin.inventory.models.declared_fields import declared_fields
from registry_admin.inventory.removal_confirmation import FIELD, refused_right, removal_refusal
from registry_admin.inventory.sync import on_commit
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.release import release
from registry_admin.inventory.sync.removals import MAY_REMOVE, approve_removals, ids_of_services, preview_removals
from registry_admin.inventory.sync_messages import add_handover_messages, add_sync_messages


class InstanceInline(admin.TabularInline):
    """The instances of a service, edited with it."""

    model = Instance
    form = InstanceForm
    formset = InstanceFormSet
    extra = 0
    min_num = 0
    fields = [field.name for field in declared_fields(Instance)]
    verbose_name_plural = "instances"

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """Returns the class of the formset, which asks whether the user may remove."""
        formset = super().get_formset(request, obj, **kwargs)
        return type(formset.__name__, (formset,), {"request": request})


@admin.register(Service)
class ServiceAdmin(RegistryAdmin):
    """Lists and edits declared services."""

    form = ServiceForm
    inlines = [InstanceInline]
    list_display = ["name", "sync_status", "health", "instance_count", "owner", "enabled", "updated_at", "page"]
    list_filter = ["sync_status", "health", "enabled", "check_kind", "check_disable_redirects", ("owner", ValuesFilter)]
    search_fields = ["name", "description", "owner", "instances__address", "instances__consul_id"]
    search_help_text = "Name, description, owner, address or service ID"
    actions = ["delete_selected", "sync_now", "enable", "disable", "release", "export"]
    save_on_top = True
    formfield_overrides = {URLField: {"assume_scheme": "https"}}
    fieldsets = service_fieldsets()
    delete_confirmation_template = "admin/inventory/service/delete_confirmation.html"
    change_form_template = "admin/inventory/service/change_form.html"
    change_list_template = "admin/inventory/service/change_list.html"

    @admin.display(description="headers")
    def header_names(self, service: Service) -> str:
        """Returns the names of the check's headers: their values are secrets."""
        return ", ".join(service.check_headers) or "none"

    def get_fieldsets(self, request: HttpRequest, obj: Service | None = None) -> Any:
        """Returns the sections of the form; who may only view gets the names of headers."""
        sections = super().get_fieldsets(request, obj)
        if self.has_change_permission(request, obj) or obj is None:
            return sections
        replacements = {"check_headers": "header_names"}
        return [
            (title, options | {"fields": [_replaced(field, replacements) for field in options["fields"]]})
            for title, options in sections
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Service | None = None) -> Any:
        """Returns the fields that are no input."""
        return (*super().get_readonly_fields(request, obj), "header_names")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Service]:
        """Adds the number of instances, by subqueries: a search would multiply the rows of a join."""
        enabled = Instance.objects.filter(service=OuterRef("pk"), enabled=True).order_by()
        services: QuerySet[Service] = super().get_queryset(request)
        return services.annotate(
            declared_count=_count(enabled), synced_count=_count(enabled.filter(sync_status=SyncStatus.SYNCED))
        )

    @admin.display(description="instances in sync")
    def instance_count(self, service: Any) -> str:
        """Returns the share of enabled instances in sync, such as `2 of 3`."""
        return f"{service.synced_count} of {service.declared_count}" if service.declared_count else "none declared"

    @admin.display(description="live")
    def page(self, service: Service) -> SafeString:
        """Returns the link to the service's live page."""
        return format_html(
            '<a href="{}">Live page<span class="visually-hidden"> of {}</span></a>',
            reverse("dashboard:service", args=[service.name]), service.name,
        )  # fmt: skip

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Suggests for a new service what is safer: whoever answers a check can't send Consul's agent elsewhere."""
        return {"check_disable_redirects": True, **super().get_changeform_initial_data(request)}

    def get_urls(self) -> list[URLPattern]:
        """Adds the pages of import and export."""
        own = [
            path("import/", self.admin_site.admin_view(import_view), name="inventory_service_import"),
            path("export/", self.admin_site.admin_view(export_view), name="inventory_service_export"),
        ]
        return [*own, *super().get_urls()]

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Redirects to the audit of all changes; the stock page knows only those made in the admin."""
        service = self.get_object(request, object_id)
        if service is None or not self.has_view_permission(request, service):
            return super().history_view(request, object_id, extra_context)
        return redirect(f"{reverse('dashboard:change-history')}?{urlencode({'service': service.name})}")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Adds the links to import and export."""
        may_import = request.user.has_perms([f"inventory.{verb}_service" for verb in ("add", "change")])
        extra = {"may_import": may_import, "export_formats": OWN_FORMATS.values(), **(extra_context or {})}
        return super().changelist_view(request, extra)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:  # noqa: FBT001
        """Saves the instances, and warns of declarations that are valid but can't work."""
        super().save_related(request, form, formsets, change)
        for formset in formsets:
            if formset.removals.held:  # and confirmed, or the form would be invalid
                approve_removals(formset.removals.ids, counted=True)
        for advice in lint_declaration(form.instance, list(form.instance.instances.all()))[:10]:
            self.message_user(request, f"Saved, but look again. {advice}", messages.WARNING)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Returns the form, with the banner's text."""
        extra = {"freshness": self.freshness_of(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Shows the outcome of the sync that follows saving."""
        try:
            with on_commit.syncing_on_commit() as outcomes:
                response = super().changeform_view(request, *args, **kwargs)
        except IntegrityError:  # the form refuses what collides with what it has read
            text = "Nothing was saved: somebody has changed the inventory meanwhile."
            self.message_user(request, f"{text} Look at it again, and repeat your changes.", messages.ERROR)
            return redirect(request.get_full_path())
        add_sync_messages(request, outcomes)
        return response

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> Any:
        """Asks the brake and for the right to remove first; shows the outcome of the sync that follows deleting."""
        service = self.get_object(request, unquote(object_id))
        removals = preview_removals(ids_of_services([service.pk] if service else []))
        if service is not None and self.has_delete_permission(request, service):
            if refusal := refused_right(request, removals):
                self.message_user(request, f"Nothing was deleted. {refusal}", messages.ERROR)
                return redirect("admin:inventory_service_change", object_id)
            if request.method == "POST" and (refusal := removal_refusal(request, removals)):
                self.message_user(request, f"Nothing was deleted. {refusal}", messages.ERROR)
                return redirect(request.get_full_path())
        extra = {"removals": removals, "removals_field": FIELD, **(extra_context or {})}
        with on_commit.syncing_on_commit() as outcomes:
            response = super().delete_view(request, object_id, extra)
        add_sync_messages(request, outcomes)
        return response

    def delete_model(self, request: HttpRequest, obj: Service) -> None:
        """Deletes the service; the run that follows may remove as many instances as were confirmed."""
        removals = preview_removals(ids_of_services([obj.pk]))
        super().delete_model(request, obj)
        if removals.held:
            approve_removals(removals.ids, counted=True)

    def response_action(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Shows the outcome of the syncs that follow an action."""
        with on_commit.syncing_on_commit() as outcomes:
            response = super().response_action(request, *args, **kwargs)
        add_sync_messages(request, outcomes)
        return response

    @admin.action(description="Delete selected services", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """Deletes the chosen declarations."""
        chosen = _plain(queryset)
        rows = Instance.objects.filter(service__in=chosen).order_by("service__name", "consul_id")
        if rows.exists() and not request.user.has_perm("inventory.delete_instance"):
            raise PermissionDenied
        removals = preview_removals(list(rows.values_list("consul_id", flat=True)))
        leaving = set(removals.ids)
        items = [
            (key, "is deleted here, and taken out of Consul" if key in leaving else "is deleted here")
            for key in (*chosen.values_list("name", flat=True), *rows.values_list("consul_id", flat=True))
        ]
        number = chosen.count()
        explanation = f"The declarations of {number} service(s) with {rows.count()} instance(s) will be deleted."
        button = "Yes, delete them"
        if page := confirmation_page(
            self, request, chosen, items, explanation=explanation, button=button, removals=removals
        ):
            return page
        approve_removals(removals.ids, counted=bool(removals.held))
        self.log_deletions(request, chosen)
        chosen.delete()
        text = ngettext("%(n)d service was deleted.", "%(n)d services were deleted.", number)
        self.message_user(request, text % {"n": number})
        return None

    @admin.action(description="Sync now", permissions=["sync"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """Syncs the chosen services. Registers instances again that had left by themselves."""
        chosen = _plain(queryset)
        rows = Instance.objects.filter(service__in=chosen).exclude(sync_status=SyncStatus.SYNCED)
        planned = rows.order_by("service__name", "consul_id").values_list("consul_id", "sync_action", "sync_reason")
        items = [
            (key, f"{action or 'compared again'}: {reason}" if reason else action or "compared")
            for key, action, reason in planned
        ]
        explanation = "Consul is compared with the declarations of the chosen services, and made to match them."
        if page := confirmation_page(self, request, chosen, items, explanation=explanation, button="Yes, sync them"):
            return page
        names = frozenset(chosen.values_list("name", flat=True))
        may_prune = request.user.has_perm(MAY_REMOVE)
        actor = current_actor().name
        reconciler = Reconciler(
            trigger=SyncRun.Trigger.ACTION,
            actor=actor,
            only=names,
            restore=names,
            prune=may_prune,
            may_remove=may_prune,
        )
        outcome = reconciler.run()
        add_sync_messages(request, [outcome])
        return redirect("dashboard:sync-run", pk=outcome.run_id) if outcome.run_id else None

    def has_sync_permission(self, request: HttpRequest) -> bool:
        """Returns whether the user may sync."""
        return bool(request.user.has_perm("inventory.sync_service"))

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """Enables the chosen declarations."""
        return self._switch(request, queryset, enabled=True)

    @admin.action(description="Disable: take out of Consul, keep here", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """Disables the chosen declarations."""
        return self._switch(request, queryset, enabled=False)

    @admin.action(description="Release: keep in Consul, drop the declaration", permissions=["delete"])
    def release(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        """Removes our marks from all instances of the chosen services and deletes their declarations."""
        chosen = _plain(queryset)
        rows = Instance.objects.filter(service__in=chosen).order_by("service__name", "consul_id")
        items = [
            (key, "stays in Consul as it is, without our mark") for key in rows.values_list("consul_id", flat=True)
        ]
        explanation = (
            f"The declarations of {chosen.count()} service(s) with {len(items)} instance(s) will be deleted here. "
            "In Consul everything stays as it is, but without this inventory's mark: it will be neither changed nor "
            "removed from here any more."
        )
        if page := confirmation_page(self, request, chosen, items, explanation=explanation, button="Yes, release them"):
            return page
        try:
            handover = release(chosen)
        except RegistryError as error:
            self.message_user(request, f"Nothing was released: {error}", messages.ERROR)
        else:
            add_handover_messages(request, handover, verb="Released, and left in Consul as they are")
        return None

    @admin.action(description=f"Export as {OWN_FORMATS[DEFAULT_FORMAT].label}", permissions=["view"])
    def export(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse:
        """Returns the chosen declarations as a download."""
        return export_view(request, _plain(queryset))

    def _switch(self, request: HttpRequest, queryset: QuerySet[Service], *, enabled: bool) -> HttpResponse | None:
        chosen = _plain(queryset)
        word = "enabled" if enabled else "disabled"
        effect = "is registered in Consul" if enabled else "is taken out of Consul, and kept here"
        rows = Instance.objects.filter(service__in=chosen.exclude(enabled=enabled), enabled=True)
        items = [(key, effect) for key in rows.order_by("consul_id").values_list("consul_id", flat=True)]
        items += [
            (name, f"is {word} already") for name in chosen.filter(enabled=enabled).values_list("name", flat=True)
        ]
        explanation = f"{chosen.exclude(enabled=enabled).count()} service(s) will be {word}."
        removals = NO_REMOVALS if enabled else preview_removals(ids_of_services(chosen.values_list("pk", flat=True)))
        if page := confirmation_page(
            self,
            request,
            chosen,
            items,
            explanation=explanation,
            button=f"Yes, {word[:-1]} them",
            removals=removals,
        ):
            return page
        changed = on_commit.set_enabled(chosen, enabled=enabled)
        if removals.held:
            approve_removals(removals.ids, counted=True)
        text = ngettext("%(n)d service was %(word)s.", "%(n)d services were %(word)s.", changed)
        self.message_user(request, text % {"n": changed, "word": word})
        return None


def _plain(queryset: QuerySet[Service]) -> QuerySet[Service]:
    """Returns the chosen services without the list's annotations and ordering."""
    return Service.objects.filter(pk__in=list(queryset.values_list("pk", flat=True)))


def _replaced(field: Any, replacements: dict[str, str]) -> Any:
    if isinstance(field, tuple):
        return tuple(replacements.get(name, name) for name in field)
    return replacements.get(field, field)


def _count(instances: QuerySet[Instance]) -> Coalesce:
    """Returns the number of these instances per service, as a subquery."""
    return Coalesce(Subquery(instances.values("service").annotate(n=Count("pk")).values("n")), 0)
