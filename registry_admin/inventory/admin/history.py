"""The admin of history: sync runs and health transitions."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from registry_admin.inventory.admin.base import ReadOnlyAdmin, ValuesFilter
from registry_admin.inventory.admin.confirmation import confirmation_page
from registry_admin.inventory.models import EvictionHalt, HealthTransition, SyncRun
from registry_admin.inventory.sync.halts import confirm_halts
from registry_admin.printable import escape_unprintable

_UNFINISHED = (SyncRun.Outcome.RUNNING, SyncRun.Outcome.INTERRUPTED, SyncRun.Outcome.ABANDONED)


@admin.register(SyncRun)
class SyncRunAdmin(ReadOnlyAdmin):
    """Lists sync runs with their items."""

    list_display = ["at", "trigger", "actor", "outcome", "changes", "duration", "message_excerpt"]
    list_filter = ["outcome", "trigger", "started_at"]
    search_fields = ["message", "actor"]
    fields = ["at", "trigger", "actor", "holder", "scope", "outcome", "duration", "message", "item_table"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[SyncRun]:
        """Defers the items: each run of a list can have thousands."""
        return super().get_queryset(request).defer("items")

    @admin.display(description="started", ordering="started_at")
    def at(self, run: SyncRun) -> str:
        """Returns the time to the second."""
        return f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC"

    @admin.display(description="changes")
    def changes(self, run: SyncRun) -> str:
        """Returns the counts of changes, such as `3 registered, 1 failed`."""
        counts = {name: getattr(run, name) for name in ("registered", "updated", "deregistered", "evicted", "failed")}
        done = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
        return f"{done}, of {run.planned} planned" if run.outcome in _UNFINISHED else done

    @admin.display(description="message")
    def message_excerpt(self, run: SyncRun) -> str:
        """Returns the first 120 characters of the message."""
        return run.message[:120]

    @admin.display(description="took")
    def duration(self, run: SyncRun) -> str:
        """Returns the duration, such as `12 ms` or `3.4 s`."""
        return f"{run.seconds * 1000:.0f} ms" if run.seconds < 1 else f"{run.seconds:.1f} s"

    @admin.display(description="items")
    def item_table(self, run: SyncRun) -> str:
        """Returns the items with their changes, field by field, and their results."""
        return render_to_string(
            "admin/inventory/run_items.html", {"items": run.items, "running": run.outcome == SyncRun.Outcome.RUNNING}
        )


@admin.register(EvictionHalt)
class EvictionHaltAdmin(ReadOnlyAdmin):
    """Lists the halts of eviction, and lets a person confirm that the instances are dead."""

    list_display = ["group", "began", "ended", "down", "confirmed"]
    list_filter = ["began_at"]
    fields = ["group", "began", "ended", "down", "names", "confirmed"]
    actions = ["confirm"]

    def has_confirm_permission(self, request: HttpRequest) -> bool:
        """Returns whether the user may take instances out of Consul."""
        return request.user.has_perm("inventory.prune_service")

    @admin.action(description="They are dead: evict them", permissions=["confirm"])
    def confirm(self, request: HttpRequest, queryset: QuerySet[EvictionHalt]) -> HttpResponse | None:
        """Confirms that the instances that are down in these halts are dead, so that the watcher evicts them."""
        names = sorted({place[-1] for halt in queryset.filter(ended_at=None) for place in halt.instances})
        items = [(name, "evicted if it still fails and doesn't answer Registry Admin either") for name in names]
        explanation = f"{len(items)} instance(s) fail together. Confirm that it is no outage of the network."
        if page := confirmation_page(self, request, queryset, items, explanation=explanation, button="Yes, evict them"):
            return page
        confirmed = confirm_halts(queryset)
        messages.success(request, f"{confirmed} halt(s) confirmed: what is still dead is evicted within minutes.")
        return None

    @admin.display(description="group")
    def group(self, halt: EvictionHalt) -> str:
        """Returns the group, such as `service api`."""
        return escape_unprintable(str(halt))

    @admin.display(description="began", ordering="began_at")
    def began(self, halt: EvictionHalt) -> str:
        """Returns the time to the second."""
        return f"{halt.began_at:%Y-%m-%d %H:%M:%S} UTC"

    @admin.display(description="ended", ordering="ended_at")
    def ended(self, halt: EvictionHalt) -> str:
        """Returns the time to the second, or that it goes on."""
        return f"{halt.ended_at:%Y-%m-%d %H:%M:%S} UTC" if halt.ended_at else "goes on"

    @admin.display(description="down")
    def down(self, halt: EvictionHalt) -> str:
        """Returns the numbers, such as `3 of 4`."""
        return f"{len(halt.instances)} of {halt.total}"

    @admin.display(description="instances")
    def names(self, halt: EvictionHalt) -> str:
        """Returns the instances that are down, a line each."""
        return "\n".join(escape_unprintable(place[-1]) for place in halt.instances)

    @admin.display(description="confirmed")
    def confirmed(self, halt: EvictionHalt) -> str:
        """Returns who has confirmed it and when, if anybody."""
        return f"{halt.confirmed_at:%Y-%m-%d %H:%M:%S} UTC by {halt.confirmed_by}" if halt.confirmed_at else ""


@admin.register(HealthTransition)
class HealthTransitionAdmin(ReadOnlyAdmin):
    """Lists the health transitions of instances."""

    list_display = ["when", "consul_id", "service_name", "change", "output_excerpt"]
    list_filter = [("after", ValuesFilter), "at", ("node", ValuesFilter)]
    search_fields = ["consul_id", "service_name", "output"]
    fields = ["when", "service_name", "consul_id", "node", "change", "output"]

    @admin.display(description="at", ordering="at")
    def when(self, row: HealthTransition) -> str:
        """Returns the time to the second."""
        return f"{row.at:%Y-%m-%d %H:%M:%S} UTC"

    @admin.display(description="change")
    def change(self, row: HealthTransition) -> str:
        """Returns the transition, such as `Passing → Critical`."""
        return f"{_health_label(row.before)} \N{RIGHTWARDS ARROW} {_health_label(row.after)}"

    @admin.display(description="output")
    def output_excerpt(self, row: HealthTransition) -> str:
        """Returns the first 120 characters of the output, on one line."""
        return escape_unprintable(" ".join(row.output.split())[:120])


def _health_label(value: str) -> str:
    return value.capitalize() if value else "not there"
