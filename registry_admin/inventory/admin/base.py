"""What all pages of the inventory have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from registry_admin.inventory.adoption import Handover
from registry_admin.inventory.models import Health, SyncStatus
from registry_admin.inventory.passes import SyncOutcome
from registry_admin.inventory.selectors import Freshness, freshness, lease
from registry_admin.inventory.templatetags.registry import status_chip
from registry_admin.reconcile.rendering import PAST

_FILTERS_ASK = frozenset({"exact", "isnull", "gte", "lt"})


class RegistryAdmin(admin.ModelAdmin):
    """What our pages have in common: the banner, and one look at how old the data is for a whole page."""

    change_list_template = "admin/inventory/change_list.html"
    show_full_result_count = False

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

    def tell_handover(self, request: HttpRequest, handover: Handover, *, verb: str) -> None:
        """What became of an adoption or a release."""
        if handover.done:
            shown = ", ".join(handover.done[:5]) + (
                f" and {len(handover.done) - 5} more" if len(handover.done) > 5 else ""
            )
            self.message_user(request, f"{verb}: {shown}.", messages.SUCCESS)
        for consul_id, why in list(handover.refused.items())[:10]:
            self.message_user(request, f"{consul_id}: {why}", messages.ERROR)

    def tell_outcomes(self, request: HttpRequest, outcomes: Iterable[SyncOutcome]) -> None:
        """What came of the syncs that this request has set off."""
        for outcome in outcomes:
            for level, text in _messages_for(outcome):
                self.message_user(request, text, level)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """With the banner's text, and who leads."""
        extra = {"freshness": self.freshness_of(request), "lease": lease(), **(extra_context or {})}
        return super().changelist_view(request, extra)


class ReadOnlyAdmin(RegistryAdmin):
    """For what only syncing writes."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:  # noqa: ARG002
        """Nobody."""
        return False

    has_change_permission = has_delete_permission = has_add_permission


def actor(request: HttpRequest) -> str:
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
