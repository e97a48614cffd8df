"""What all pages of the inventory have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from registry_admin.inventory.models import Health, SyncStatus
from registry_admin.inventory.selectors import Freshness, freshness, lease
from registry_admin.inventory.templatetags.registry import status_chip

_FILTERS_ASK = frozenset({"exact", "isnull", "gte", "lt"})


class RegistryAdmin(admin.ModelAdmin):
    """What our pages have in common: the banner, and one look at how old the data is for a whole page."""

    change_list_template = "admin/inventory/change_list.html"
    show_full_result_count = False
    list_per_page = 50

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
        """With the banner's text, and who leads."""
        extra = {"freshness": self.freshness_of(request), "lease": lease(), **(extra_context or {})}
        return super().changelist_view(request, extra)


class ValuesFilter(admin.AllValuesFieldListFilter):
    """All values that there are; the empty one has a name too, or its link would have no words."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        """As the stock filter's."""
        for choice in super().choices(changelist):
            yield choice if choice["display"] else {**choice, "display": "(none)"}


class ReadOnlyAdmin(RegistryAdmin):
    """For what only syncing writes."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002
        """Nobody."""
        return False

    has_change_permission = has_delete_permission = has_add_permission
