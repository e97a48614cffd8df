"""Tags for parts that a page has by the thousand, such as cells and bars."""

from __future__ import annotations

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from registry_admin.dashboard.availability import Availability
from registry_admin.dashboard.overview_row import ServiceRow
from registry_admin.inventory.models import HEALTHS, Colour, Health, Status, SyncRun
from registry_admin.inventory.selectors import Freshness
from registry_admin.inventory.templatetags.registry import visible

register = template.Library()


@register.simple_tag
def cells(row: ServiceRow, freshness: Freshness) -> SafeString:
    """Returns a service's instances as small squares with text; Unknown while Consul can't be seen."""
    if not row.cells:
        return format_html('<span class="registry-quiet">{}</span>', "none")
    is_current = freshness.is_current
    drawn = format_html_join(
        "",
        '<li class="cell cell-{} {}" title="{}"><span class="visually-hidden">{}</span></li>',
        (
            (*(_cell_classes(cell.status if is_current else HEALTHS[Health.UNKNOWN])), words, words)
            for cell in row.cells
            for words in (f"{visible(cell.place)}: {'' if is_current else 'unknown, was '}{cell.status.label}",)
        ),
    )
    more = format_html('<li class="registry-quiet">+{}</li>', row.more) if row.more else ""
    return format_html('<ul class="registry-cells">{}{}</ul>', drawn, more)


def _cell_classes(status: Status) -> tuple[str, str]:
    return status.value, "cell-absent" if status.is_absent else f"status-{status.colour}"


_OUTCOME_COLOURS = {
    SyncRun.Outcome.RUNNING: Colour.GREY,
    SyncRun.Outcome.DONE: Colour.GREEN,
    SyncRun.Outcome.PARTIAL: Colour.AMBER,
    SyncRun.Outcome.REFUSED: Colour.AMBER,
}


@register.simple_tag
def outcome_chip(run: SyncRun) -> SafeString:
    """Returns how a sync run ended, as a chip."""
    colour = _OUTCOME_COLOURS.get(SyncRun.Outcome(run.outcome), Colour.RED)
    return format_html('<span class="chip status-{}">{}</span>', colour, run.get_outcome_display())


@register.simple_tag
def bars(availability: Availability, *, titles: bool = False) -> SafeString:
    """Returns the availability as an SVG with a text alternative. `titles`: each bar has a tooltip."""
    if titles:
        drawn = format_html_join(
            "",
            '<rect class="bar-{}" x="{}" y="{}" width="0.75" height="{}"><title>{}</title></rect>',
            ((bar.state, x, bar.top, bar.height, bar.description) for x, bar in enumerate(availability.bars)),
        )
    else:
        drawn = format_html_join("", '<path class="bar-{}" d="{}"/>', availability.paths)
    return format_html(
        '<svg class="registry-bars" viewBox="0 0 {} 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>',
        len(availability.bars), availability.description, drawn,
    )  # fmt: skip
