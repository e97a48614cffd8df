"""The operator's view: declarations beside what Consul has, in the stock Django admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, Model, OuterRef, QuerySet, Subquery, URLField
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.safestring import SafeString
from django.utils.translation import ngettext

from registry_admin.inventory import services
from registry_admin.inventory.forms import InstanceForm, InstanceFormSet, ServiceForm
from registry_admin.inventory.live import live_view
from registry_admin.inventory.models import Health, Instance, ObservedInstance, Service, SyncRun, SyncStatus
from registry_admin.inventory.selectors import Freshness, freshness, service_pane
from registry_admin.inventory.services import SyncOutcome
from registry_admin.inventory.templatetags.registry import status_chip
from registry_admin.reconcile.rendering import PAST

_FILTERS_ASK = frozenset({"exact", "isnull", "gte", "lt"})


class RegistryAdmin(admin.ModelAdmin):
    """What our pages have in common: the banner, and one look at how old the data is for a whole page."""

    change_list_template = "admin/inventory/change_list.html"
    show_full_result_count = False

    class Media:
        css = {"all": ["inventory/inventory.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Notes once per request how old what we know is, for every row's chips."""
        self.freshness_of(request)
        return super().get_queryset(request)

    def freshness_of(self, request: HttpRequest) -> Freshness:
        """How old what we know of Consul is; read once per request."""
        found: Freshness | None = getattr(request, "registry_freshness", None)
        if found is None:
            found = freshness()
            request.registry_freshness = found  # type: ignore[attr-defined]
        return found

    def get_list_display(self, request: HttpRequest) -> Any:
        """Columns that show a status need to know whether it is current."""
        current = self.freshness_of(request).is_current
        return [self._status_column(name, current=current) or name for name in super().get_list_display(request)]

    def _status_column(self, name: object, *, current: bool) -> Callable[[Any], SafeString] | None:
        if name not in ("sync_status", "health"):
            return None
        choices: type[SyncStatus | Health] = SyncStatus if name == "sync_status" else Health

        @admin.display(description="sync" if name == "sync_status" else "health", ordering=str(name))
        def column(row: Any) -> SafeString:
            return status_chip(getattr(row, str(name)), choices, current=current)

        return column

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only what our filters link to: Django would let anyone who may look make up a regular expression too."""
        return lookup.rpartition("__")[2] in _FILTERS_ASK and super().lookup_allowed(lookup, value, request)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """With the banner's text."""
        return super().changelist_view(request, {"freshness": self.freshness_of(request), **(extra_context or {})})


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
    actions = ["sync_now", "enable", "disable"]
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
        js = ["inventory/live.js"]

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
        with services.collected_outcomes(_actor(request)) as outcomes:
            response = super().changeform_view(request, *args, **kwargs)
        self._tell(request, outcomes)
        return response

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Tells what came of the sync that deleting has set off."""
        with services.collected_outcomes(_actor(request)) as outcomes:
            response = super().delete_view(request, *args, **kwargs)
        self._tell(request, outcomes)
        return response

    def response_action(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Tells what came of the syncs that an action has set off."""
        with services.collected_outcomes(_actor(request)) as outcomes:
            response = super().response_action(request, *args, **kwargs)
        self._tell(request, outcomes)
        return response

    @admin.action(description="Sync now", permissions=["change"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[Service]) -> None:
        """One pass over the chosen services; also brings back instances that had left by themselves."""
        names = frozenset(queryset.values_list("name", flat=True))
        outcome = services.sync(trigger=SyncRun.Trigger.ACTION, actor=_actor(request), only=names, revive=names)
        self._tell(request, [outcome])

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Service]) -> None:
        """Switches the chosen declarations on."""
        self._switch(request, queryset, enabled=True)

    @admin.action(description="Disable: take out of Consul, keep here", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Service]) -> None:
        """Switches the chosen declarations off."""
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Service], *, enabled: bool) -> None:
        word = "enabled" if enabled else "disabled"
        changed = services.set_enabled(Service.objects.filter(pk__in=queryset.values("pk")), enabled=enabled)
        text = ngettext("%(n)d service was %(word)s.", "%(n)d services were %(word)s.", changed)
        self.message_user(request, text % {"n": changed, "word": word})

    def _tell(self, request: HttpRequest, outcomes: list[SyncOutcome]) -> None:
        for outcome in outcomes:
            for level, text in _messages_for(outcome):
                self.message_user(request, text, level)


class ReadOnlyAdmin(RegistryAdmin):
    """For what only syncing writes."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002
        """Nobody."""
        return False

    has_change_permission = has_delete_permission = has_add_permission


@admin.register(ObservedInstance)
class ObservedInstanceAdmin(ReadOnlyAdmin):
    """Everything in Consul, ours or not."""

    change_form_template = "admin/inventory/change_form.html"
    list_display = ["consul_id", "service_name", "place", "sync_status", "health", "health_since", "sync_reason"]
    list_filter = ["sync_status", "health", "registered_itself", "owner"]
    search_fields = ["consul_id", "service_name", "address"]
    fields = [
        "consul_id", "service_name", "place", "tags", "shown_meta", "weight", "owner", "registered_itself",
        "sync_reason", "shown_health", "health_since", "shown_checks", "first_seen",
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


@admin.register(SyncRun)
class SyncRunAdmin(ReadOnlyAdmin):
    """What was done, when, by whose wish, and what became of it."""

    list_display = ["at", "trigger", "actor", "outcome", "changes", "duration", "brief"]
    list_filter = ["outcome", "trigger", "started_at"]
    search_fields = ["message", "actor"]
    fields = ["at", "trigger", "actor", "scope", "outcome", "duration", "message", "shown_items"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[SyncRun]:
        """Without the items, which can be thousands for each run of a list."""
        return super().get_queryset(request).defer("items")

    @admin.display(description="started", ordering="started_at")
    def at(self, run: SyncRun) -> str:
        """To the second."""
        return f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC"

    @admin.display(description="changes")
    def changes(self, run: SyncRun) -> str:
        """`3 registered, 1 failed`"""
        counts = {name: getattr(run, name) for name in ("registered", "updated", "deregistered", "failed")}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"

    @admin.display(description="message")
    def brief(self, run: SyncRun) -> str:
        """The beginning of the message."""
        return run.message[:120]

    @admin.display(description="took")
    def duration(self, run: SyncRun) -> str:
        """In milliseconds."""
        return f"{run.seconds * 1000:.0f} ms"

    @admin.display(description="items")
    def shown_items(self, run: SyncRun) -> str:
        """Each with what changed, field by field, and what became of it."""
        return render_to_string("admin/inventory/run_items.html", {"items": run.items})


def _count(instances: QuerySet[Instance]) -> Coalesce:
    """How many of these a service has, as a subquery."""
    return Coalesce(Subquery(instances.values("service").annotate(n=Count("pk")).values("n")), 0)


def _actor(request: HttpRequest) -> str:
    return request.user.get_username()


def _messages_for(outcome: SyncOutcome) -> list[tuple[int, str]]:
    """What to tell the person who set off a sync: (level, text)."""
    told: list[tuple[int, str]] = []
    if outcome.is_unavailable:
        later = "The watcher will sync it as soon as Consul answers."
        told.append((messages.WARNING, f"Saved here, but not in Consul yet: {outcome.error} {later}"))
    elif outcome.error is not None:
        told.append((messages.ERROR, f"Saved here, but not synced: {outcome.error}"))
    told += [(messages.ERROR, f"{result.item.id}: {result.error}") for result in outcome.failures[:10]]
    told += [(messages.ERROR, f"{consul_id}: {why}") for consul_id, why in sorted(outcome.broken.items())[:10]]
    done = [result.item for result in outcome.results if result.ok]
    if done:
        what = ", ".join(f"{PAST[item.action]} {item.id}" for item in done[:5])
        more = f" and {len(done) - 5} more" if len(done) > 5 else ""
        told.append((messages.SUCCESS, f"Synced with Consul: {what}{more}."))
    elif outcome.ok and outcome.plan is not None:
        told.append((messages.INFO, "Consul matches already: nothing to sync."))
    return told
