"""Columns of the table of services: title, cell and order of each. The page and its sorting derive from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.http import QueryDict
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from registry_admin.dashboard.overview_row import ServiceRow
from registry_admin.dashboard.templatetags.dashboard import bars, cells
from registry_admin.inventory.selectors import Freshness
from registry_admin.inventory.templatetags.registry import ago, chip, visible

CellRenderer = Callable[[ServiceRow, Freshness, QueryDict], SafeString]


@dataclass(frozen=True, kw_only=True)
class OverviewColumn:
    """A column. `cell`: returns the HTML of one service. `order`: the columns of the query to sort by, or none."""

    key: str
    title: str
    cell: CellRenderer
    order: tuple[str, ...] = ()
    css_class: str = ""


def _owner(row: ServiceRow, _freshness: Freshness, query: QueryDict) -> SafeString:
    if row.owner:
        link = query.copy()
        link.pop("page", None)
        link["owner"] = row.owner
        return format_html('<a class="registry-plain" href="?{}">{}</a>', link.urlencode(), row.owner)
    if row.is_declared:
        return SafeString("")
    return format_html(
        '<span class="registry-quiet">{}</span>', "registers itself" if row.registers_itself else "not declared"
    )


def _name(row: ServiceRow, _freshness: Freshness, _query: QueryDict) -> SafeString:
    return format_html('<a href="{}">{}</a>', reverse("dashboard:service", args=[row.name]), visible(row.name))


NAME = OverviewColumn(key="name", title="Service", cell=_name, order=("key",))  # the head of each row
COLUMNS = (
    OverviewColumn(
        key="sync",
        title="Sync",
        cell=lambda row, freshness, _query: chip(row.sync, "sync", freshness),
        order=("sync_rank", "health_rank", "key"),
    ),
    OverviewColumn(
        key="health",
        title="Health",
        cell=lambda row, freshness, _query: chip(row.health, "health", freshness),
        order=("health_rank", "sync_rank", "key"),
    ),
    OverviewColumn(key="instances", title="Instances", cell=lambda row, freshness, _query: cells(row, freshness)),
    OverviewColumn(
        key="availability",
        title="Last 24 hours",
        cell=lambda row, _freshness, _query: bars(row.availability) if row.availability else SafeString(""),
        css_class="overview-bars",
    ),
    OverviewColumn(
        key="changed",
        title="Last change",
        cell=lambda row, _freshness, _query: ago(row.changed),
        order=("-changed", "key"),
    ),
    OverviewColumn(key="owner", title="Owner", cell=_owner, order=("display_owner", "key")),
)
SORT_ORDERS = {column.key: column.order for column in (NAME, *COLUMNS) if column.order}
