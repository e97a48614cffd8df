"""All services at a glance: what needs attention first."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils import timezone

from registry_admin.dashboard.pages import Page, page
from registry_admin.dashboard.selectors import overview as selectors
from registry_admin.dashboard.selectors.attention import attention
from registry_admin.inventory.models import Health, SyncStatus

_COUNTED_SYNCS = [
    SyncStatus.SYNCED, SyncStatus.OUT_OF_SYNC, SyncStatus.MISSING, SyncStatus.EVICTED, SyncStatus.UNMANAGED,
    SyncStatus.DISABLED, SyncStatus.UNKNOWN,
]  # fmt: skip
_COUNTED_HEALTHS = [Health.PASSING, Health.WARNING, Health.CRITICAL, Health.MAINTENANCE, Health.UNKNOWN]


@page("view_service")
def overview(request: HttpRequest) -> Page:
    """Counts, what needs attention, and a page of the services that the address asks for."""
    wanted = selectors.Wanted.of(request.GET)
    counts = selectors.counts(wanted)
    rows, has_more = selectors.services(wanted, now=timezone.now())
    first = (wanted.page - 1) * selectors.PAGE_SIZE + 1
    context = {
        "wanted": wanted,
        "counts": counts,
        "healths": [(one, counts.health.get(one, 0)) for one in _COUNTED_HEALTHS],
        "syncs": [(one, counts.sync.get(one, 0)) for one in _COUNTED_SYNCS],
        "attention": attention() if counts.pressing else [],
        "rows": rows,
        "has_more": has_more,
        "first": first,
        "last": first + len(rows) - 1,
        "columns": _columns(wanted),
    }
    return Page(name="overview", title="Services", context=context)


def _columns(wanted: selectors.Wanted) -> list[dict[str, str]]:
    """The table's head: each column's word, the sort that a click gives, and how it is sorted now."""
    words = {"name": "Service", "sync": "Sync", "health": "Health", "": "Instances", " ": "Last 24 hours",
             "changed": "Last change", "owner": "Owner"}  # fmt: skip
    return [
        {
            "word": word,
            "sort": f"-{key}" if wanted.sort == key else key,
            "sorted": {key: "ascending", f"-{key}": "descending"}.get(wanted.sort, ""),
            "can_sort": "yes" if key.strip() else "",
        }
        for key, word in words.items()
    ]
