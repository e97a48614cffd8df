"""Template tags: status chips, ages, and printable text from outside."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from registry_admin.inventory.models import AXES, HEALTHS, SYNC_STATUSES, Colour, Status
from registry_admin.inventory.selectors import Freshness
from registry_admin.printable import escape_lines

register = template.Library()


@register.simple_tag
def chip(value: str, axis: str, freshness: Freshness) -> SafeString:
    """Returns a status as a shape, a colour and a word; Unknown where Consul can't be seen and it may be old."""
    return status_chip(AXES[axis][value], current=freshness.is_current)


@register.simple_tag
def former_chip(value: str) -> SafeString:
    """Returns a health, or `evicted`, that an instance had at some time."""
    return status_chip((HEALTHS if value in HEALTHS.values else SYNC_STATUSES)[value], current=True)


def status_chip(status: Status, *, current: bool) -> SafeString:
    """Returns the chip of a status. `current`: Consul has been seen lately."""
    if current or status.is_certain:
        return format_html('<span class="chip chip-{} status-{}">{}</span>', status.value, status.colour, status.label)
    return format_html(
        '<span class="chip chip-unknown status-{}">Unknown <small>(was {})</small></span>', Colour.GREY, status.label
    )


@register.simple_tag
def ago(at: datetime | None) -> SafeString:
    """Renders an age, such as `5 minutes ago`, with the exact time on hover; live.js keeps it current."""
    if at is None:
        return SafeString("never")
    seconds = abs((timezone.now() - at).total_seconds())
    words = "just now" if seconds < 5 else f"{int(seconds)} seconds" if seconds < 60 else timesince(at, depth=1)
    exact = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    return format_html(
        '<time datetime="{}" title="{}" data-ago>{}</time>', at.isoformat(), exact,
        words if words == "just now" else f"{words} ago",
    )  # fmt: skip


@register.filter
def visible(text: object) -> str:
    """Writes out the invisible characters of text from outside, line by line; Django escapes the result.

    HTML that is safe already stays as it is.
    """
    return text if isinstance(text, SafeString) else escape_lines(str(text))
