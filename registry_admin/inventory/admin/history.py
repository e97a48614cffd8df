"""What was done, when, by whose wish, and how health went."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string

from registry_admin.inventory.admin.base import ReadOnlyAdmin, ValuesFilter
from registry_admin.inventory.models import HealthTransition, SyncRun
from registry_admin.reconcile.rendering import visible

_UNENDED = (SyncRun.Outcome.RUNNING, SyncRun.Outcome.INTERRUPTED, SyncRun.Outcome.ABANDONED)


@admin.register(SyncRun)
class SyncRunAdmin(ReadOnlyAdmin):
    """What was done, when, by whose wish, and what became of it."""

    list_display = ["at", "trigger", "actor", "outcome", "changes", "duration", "brief"]
    list_filter = ["outcome", "trigger", "started_at"]
    search_fields = ["message", "actor"]
    fields = ["at", "trigger", "actor", "holder", "scope", "outcome", "duration", "message", "shown_items"]

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
        counts = {name: getattr(run, name) for name in ("registered", "updated", "deregistered", "evicted", "failed")}
        done = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
        return f"{done}, of {run.planned} planned" if run.outcome in _UNENDED else done

    @admin.display(description="message")
    def brief(self, run: SyncRun) -> str:
        """The beginning of the message."""
        return run.message[:120]

    @admin.display(description="took")
    def duration(self, run: SyncRun) -> str:
        """`12 ms`, `3.4 s`"""
        return f"{run.seconds * 1000:.0f} ms" if run.seconds < 1 else f"{run.seconds:.1f} s"

    @admin.display(description="items")
    def shown_items(self, run: SyncRun) -> str:
        """Each with what changed, field by field, and what became of it."""
        return render_to_string(
            "admin/inventory/run_items.html", {"items": run.items, "running": run.outcome == SyncRun.Outcome.RUNNING}
        )


@admin.register(HealthTransition)
class HealthTransitionAdmin(ReadOnlyAdmin):
    """How the health of each instance went."""

    list_display = ["when", "consul_id", "service_name", "change", "brief"]
    list_filter = [("after", ValuesFilter), "at", ("node", ValuesFilter)]
    search_fields = ["consul_id", "service_name", "output"]
    fields = ["when", "service_name", "consul_id", "node", "change", "output"]

    @admin.display(description="at", ordering="at")
    def when(self, row: HealthTransition) -> str:
        """To the second."""
        return f"{row.at:%Y-%m-%d %H:%M:%S} UTC"

    @admin.display(description="change")
    def change(self, row: HealthTransition) -> str:
        """`Passing → Critical`"""
        return f"{_health_word(row.before)} \N{RIGHTWARDS ARROW} {_health_word(row.after)}"

    @admin.display(description="output")
    def brief(self, row: HealthTransition) -> str:
        """The beginning of it, on a line."""
        return visible(" ".join(row.output.split())[:120])


def _health_word(value: str) -> str:
    return value.capitalize() if value else "not there"
