"""What the templates need beyond Django's own: status chips, and text from outside made harmless."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from registry_admin.inventory.models import Health, SyncStatus
from registry_admin.inventory.selectors import Freshness
from registry_admin.reconcile import rendering

register = template.Library()


@register.simple_tag
def chip(value: str, axis: str, freshness: Freshness) -> SafeString:
    """A status as a shape, a colour and a word. What isn't known to be current is Unknown, whatever it was."""
    return status_chip(value, SyncStatus if axis == "sync" else Health, current=freshness.is_current)


def status_chip(value: str, choices: type[SyncStatus | Health], *, current: bool) -> SafeString:
    """The same for Python's side."""
    status = choices(value)
    if current or value in (choices.UNKNOWN, SyncStatus.DISABLED):
        return format_html('<span class="chip chip-{}">{}</span>', status.value, status.label)
    return format_html('<span class="chip chip-unknown">Unknown <small>(was {})</small></span>', status.label)


@register.simple_tag
def ago(at: datetime | None) -> SafeString:
    """`5 minutes ago`, with the exact time on hover; live.js keeps it counting."""
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
    """Text from outside, line by line, with invisible characters written out. Django escapes it after that."""
    return "\n".join(rendering.visible(line) for line in str(text).splitlines())
