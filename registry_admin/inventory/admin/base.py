"""The base of all admin pages of the inventory: the banner, status chips and safe filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import CharField, JSONField, Model, QuerySet, TextField
from django.http import HttpRequest
from django.utils.safestring import SafeString

from registry_admin.inventory.models import HEALTHS, SYNC_STATUSES
from registry_admin.inventory.selectors import Freshness, freshness, lease_status
from registry_admin.inventory.templatetags.registry import status_chip, visible

_ALLOWED_LOOKUPS = frozenset({"exact", "isnull", "gte", "lt"})


class KeyedAdmin(admin.ModelAdmin):
    """Finds rows by their primary key also where an address has an empty `_to_field`, for which Django answers 500."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Returns the row, or None."""
        return super().get_object(request, object_id, from_field or None)


class RegistryAdmin(KeyedAdmin):
    """Shows the banner, and status chips that know whether the data is current."""

    change_list_template = "admin/inventory/change_list.html"
    show_full_result_count = False
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Reads the freshness once per request, for the chips of every row."""
        self.freshness_of(request)
        return super().get_queryset(request)

    def freshness_of(self, request: HttpRequest) -> Freshness:
        """Returns the age of what is known of Consul; read once per request."""
        known: Freshness | None = getattr(request, "registry_freshness", None)
        if known is None:
            known = freshness()
            request.registry_freshness = known  # type: ignore[attr-defined]
        return known

    def get_list_display(self, request: HttpRequest) -> Any:
        """Replaces status columns by chips that know whether the status is current."""
        current = self.freshness_of(request).is_current
        return [self._status_column(name, current=current) or name for name in super().get_list_display(request)]

    def _status_column(self, name: object, *, current: bool) -> Callable[[Any], SafeString] | None:
        if name not in ("sync_status", "health"):
            return None
        axis = SYNC_STATUSES if name == "sync_status" else HEALTHS

        @admin.display(description=axis.name, ordering=str(name))
        def column(row: Any) -> SafeString:
            return status_chip(axis[getattr(row, str(name))], current=current)

        return column

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allows the lookups of our filters. Django would also allow any viewer a regular expression."""
        _, separator, operator = lookup.rpartition("__")
        is_known = not separator or operator in _ALLOWED_LOOKUPS  # a plain field is compared exactly
        has_nul = any("\x00" in text for text in value)  # PostgreSQL can't compare it
        return is_known and not has_nul and super().lookup_allowed(lookup, value, request)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Adds the banner's text and the leading watcher."""
        extra = {"freshness": self.freshness_of(request), "lease": lease_status(), **(extra_context or {})}
        return super().changelist_view(request, extra)


class ValuesFilter(admin.AllValuesFieldListFilter):
    """Offers all values, readable; the empty value gets a label, so that its link has a text."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Makes each label readable."""
        for choice in super().choices(changelist):
            yield choice | {"display": visible(choice["display"]) or "(none)"}


class ReadOnlyAdmin(RegistryAdmin):
    """The base for rows that only syncing writes. Their text comes from outside, so it is made visible once fetched."""

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Returns the row for a page."""
        row = super().get_object(request, *args, **kwargs)
        return row if row is None else _with_visible_text(row)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Returns the list for a page. Actions work on rows of their own."""
        changelist = super().get_changelist_instance(request)
        changelist.result_list = [_with_visible_text(row) for row in changelist.result_list]
        return changelist

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002
        """Returns False for everybody."""
        return False

    has_change_permission = has_delete_permission = has_add_permission


def _with_visible_text(row: Any) -> Any:
    for field in row._meta.concrete_fields:
        if isinstance(field, CharField | TextField | JSONField) and field.attname not in row.get_deferred_fields():
            setattr(row, field.attname, _visible_value(getattr(row, field.attname)))
    return row


def _visible_value(value: Any) -> Any:
    """Returns text, and lists of it, made visible. The columns with pairs render them on their own."""
    if isinstance(value, list):
        return [_visible_value(element) for element in value]
    return visible(value) if isinstance(value, str) else value
