"""The map of calls between services."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils import timezone
from django.views.decorators.http import require_safe

from registry_admin.dashboard.selectors import call_graph as selectors
from registry_admin.dashboard.views.page import Page, page
from registry_admin.inventory.selectors import freshness_and_lease


@require_safe
@page("view_service", extra_stamp=selectors.calls_stamp)
def service_map(request: HttpRequest) -> Page:
    """A picture of the services and their calls, and the same as a table."""
    window, sort = request.GET.get("window", ""), request.GET.get("sort", "")
    window = window if window in selectors.WINDOWS else "1h"
    sort = sort if sort.removeprefix("-") in selectors.SORTS else "calls"
    call_map = selectors.call_map(window=window, sort=sort, now=timezone.now())
    freshness, lease = freshness_and_lease()
    columns = [
        ("caller", "Caller"), ("called", "Called"), ("calls", "Calls"), ("failures", "Failed"), ("mean", "Mean"),
        ("slowest", "Slowest"),
    ]  # fmt: skip
    context = {
        "freshness": freshness,
        "lease": lease,
        "map": call_map,
        "drawing": call_map.drawing(current=freshness.is_current),
        "drawn": selectors.MAX_DRAWN,
        "window": window,
        "windows": list(selectors.WINDOWS),
        "columns": [
            {
                "word": word,
                "sort": f"-{key}" if sort == key else key,
                "sorted": sort.removeprefix("-") == key,
                "number": key not in ("caller", "called"),
            }
            for key, word in columns
        ],
    }
    return Page(name="map", title="Map", context=context)
