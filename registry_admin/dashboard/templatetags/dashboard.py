"""What the dashboard draws too often for a template: a page has a thousand cells and bars."""

from __future__ import annotations

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from registry_admin.dashboard.availability import Availability
from registry_admin.dashboard.selectors.overview import Row
from registry_admin.inventory.selectors import Freshness

register = template.Library()


@register.simple_tag
def cells(row: Row, freshness: Freshness) -> SafeString:
    """A service's instances as small squares, each with its words. What isn't known to be current is unknown."""
    if not row.cells:
        return format_html('<span class="registry-quiet">{}</span>', "none")
    is_current = freshness.is_current
    drawn = format_html_join(
        "",
        '<li class="cell cell-{}" title="{}"><span class="visually-hidden">{}</span></li>',
        (
            (cell.state if is_current else "unknown", words, words)
            for cell in row.cells
            for words in (f"{cell.place}: {'' if is_current else 'unknown, was '}{cell.word}",)
        ),
    )
    more = format_html('<li class="registry-quiet">+{}</li>', row.more) if row.more else ""
    return format_html('<ul class="registry-cells">{}{}</ul>', drawn, more)


@register.simple_tag
def bars(availability: Availability, *, titles: bool = False) -> SafeString:
    """Availability as an SVG with a text alternative; with `titles` each bar says on hover what it stands for."""
    if titles:
        drawn = format_html_join(
            "",
            '<rect class="bar-{}" x="{}" y="{}" width="0.75" height="{}"><title>{}</title></rect>',
            ((bar.state, x, bar.top, bar.height, bar.in_words) for x, bar in enumerate(availability.buckets)),
        )
    else:
        drawn = format_html_join("", '<path class="bar-{}" d="{}"/>', availability.paths)
    return format_html(
        '<svg class="registry-bars" viewBox="0 0 {} 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>',
        len(availability.buckets), availability.in_words, drawn,
    )  # fmt: skip
