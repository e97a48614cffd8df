"""What people are told of the syncs, adoptions and releases that they have set off, as messages on the next page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.contrib import messages
from django.http import HttpRequest

from registry_admin.inventory.adoption import Handover
from registry_admin.inventory.passes import SyncOutcome
from registry_admin.reconcile.rendering import PAST

_NAMED = 5
_FAULTS = 10


def tell_outcomes(request: HttpRequest, outcomes: Iterable[SyncOutcome]) -> None:
    """What came of these syncs."""
    for outcome in outcomes:
        for level, text in _messages_for(outcome):
            messages.add_message(request, level, text)


def tell_handover(request: HttpRequest, handover: Handover, *, verb: str) -> None:
    """What became of an adoption or a release."""
    if handover.done:
        messages.success(request, f"{verb}: {_named(handover.done)}.")
    for consul_id, why in list(handover.refused.items())[:_FAULTS]:
        messages.error(request, f"{consul_id}: {why}")


def _messages_for(outcome: SyncOutcome) -> list[tuple[int, str]]:
    """What to tell the person who set off a sync: (level, text)."""
    told: list[tuple[int, str]] = []
    if outcome.is_unavailable:
        later = "The watcher will sync it as soon as Consul answers."
        told.append((messages.WARNING, f"Saved here, but not in Consul yet: {outcome.error} {later}"))
    elif outcome.error is not None:
        told.append((messages.ERROR, f"Saved here, but not synced: {outcome.error}"))
    told += [(messages.ERROR, f"{result.item.id}: {result.error}") for result in outcome.failures[:_FAULTS]]
    told += [(messages.ERROR, f"{consul_id}: {why}") for consul_id, why in sorted(outcome.broken.items())[:_FAULTS]]
    done = [result.item for result in outcome.results if result.ok]
    if done:
        what = _named([f"{PAST[item.action]} {item.id}" for item in done])
        told.append((messages.SUCCESS, f"Synced with Consul: {what}."))
    elif outcome.ok and outcome.plan is not None:
        told.append((messages.INFO, "Consul matches already: nothing to sync."))
    return told


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
