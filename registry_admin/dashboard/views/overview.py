"""The overview: all services, those that need attention first."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from django.views.decorators.http import require_safe

from registry_admin.dashboard.overview_columns import COLUMNS, NAME
from registry_admin.dashboard.selectors import overview as selectors
from registry_admin.dashboard.selectors.attention import attention
from registry_admin.dashboard.views.page import Page, page
from registry_admin.inventory.models import HEALTHS, SYNC_STATUSES
from registry_admin.inventory.selectors import freshness_and_lease


@require_safe
@page("view_service")
def overview(request: HttpRequest) -> Page:
    """Shows counts, the services that need attention, and a page of the services that the address asks for."""
    filters = selectors.OverviewFilter.from_query(request.GET)
    counts = selectors.counts(filters)
    rows, has_more = selectors.services(filters, now=timezone.now())
    freshness, lease = freshness_and_lease()
    first = (filters.page - 1) * selectors.PAGE_SIZE + 1
    context = {
        "filters": filters,
        "freshness": freshness,
        "lease": lease,
        "counts": counts,
        "healths": [(status, counts.health.get(status.value, 0)) for status in HEALTHS.statuses],
        "syncs": [(status, counts.sync.get(status.value, 0)) for status in SYNC_STATUSES.statuses],
        "attention": attention() if counts.needing_attention else [],
        "rows": [
            {
                "service": row,
                "name": NAME.cell(row, freshness, request.GET),
                "cells": [(column, column.cell(row, freshness, request.GET)) for column in COLUMNS],
            }
            for row in rows
        ],
        "has_more": has_more,
        "first": first,
        "last": first + len(rows) - 1,
        "columns": _heads(filters.sort),
    }
    return Page(name="overview", title="Services", context=context)


def _heads(sort: str) -> list[dict[str, Any]]:
    """Returns each column's title, the sort that a click gives, and how the table is sorted by it now."""
    return [
        {
            "title": column.title,
            "sort": f"-{column.key}" if sort == column.key else column.key,
            "sorted": {column.key: "ascending", f"-{column.key}": "descending"}.get(sort, ""),
            "can_sort": bool(column.order),
        }
        for column in (NAME, *COLUMNS)
    ]
