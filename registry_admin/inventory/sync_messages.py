"""Messages on the next page about the syncs, adoptions and releases that a request has started."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.contrib import messages
from django.http import HttpRequest

from registry_admin.errors import UnsafePlanError
from registry_admin.inventory.sync.handover import HandoverResult
from registry_admin.inventory.sync.result import SyncResult
from registry_admin.reconcile.conclusion import Conclusion, Deviation
from registry_admin.reconcile.rendering import PAST

_NAMED = 5
_FAULTS = 10


def add_sync_messages(request: HttpRequest, outcomes: Iterable[SyncResult]) -> None:
    """Adds messages about the results of these syncs."""
    for outcome in outcomes:
        for level, text in _messages_for(outcome):
            messages.add_message(request, level, text)


def add_handover_messages(request: HttpRequest, handover: HandoverResult, *, verb: str) -> None:
    """Adds messages about the result of an adoption or a release."""
    if handover.done:
        messages.success(request, f"{verb}: {_named(handover.done)}.")
    for consul_id, reason in list(handover.refused.items())[:_FAULTS]:
        messages.error(request, f"{consul_id}: {reason}")


def _messages_for(outcome: SyncResult) -> list[tuple[int, str]]:
    """Returns (level, text) of each message about a sync."""
    entries: list[tuple[int, str]] = []
    if outcome.is_unavailable:
        later = "The watcher will sync it as soon as Consul answers."
        entries.append((messages.WARNING, f"Saved here, but not in Consul yet: {outcome.error} {later}"))
    elif isinstance(outcome.error, UnsafePlanError):
        named = _named(outcome.error.would_remove)
        entries.append((messages.ERROR, f"Not removed from Consul: {named}. {outcome.error}"))
    elif outcome.error is not None:
        entries.append((messages.ERROR, f"Saved here, but not synced: {outcome.error}"))
    entries += [(messages.ERROR, f"{result.item.id}: {result.error}") for result in outcome.failures[:_FAULTS]]
    entries += [
        (messages.ERROR, f"{consul_id}: {reason}") for consul_id, reason in sorted(outcome.invalid.items())[:_FAULTS]
    ]
    if outcome.incomplete:
        entries.append((messages.WARNING, f"Not all of Consul could be seen: {outcome.incomplete}."))
    left = [deviation for deviation in outcome.deviations if not _is_of_error(outcome, deviation)]
    entries += [(messages.WARNING, f"Not as declared, and left alone: {deviation}") for deviation in left[:_FAULTS]]
    done = [result.item for result in outcome.results if result.ok]
    if done:
        changes = _named([f"{PAST[item.action]} {item.id}" for item in done])
        level = messages.SUCCESS if outcome.conclusion is Conclusion.VERIFIED else messages.INFO
        entries.append((level, f"Synced with Consul: {changes}."))
    if outcome.conclusion is Conclusion.PENDING:
        entries.append((messages.WARNING, "Not everything is as declared yet: the watcher goes on with it."))
    elif outcome.conclusion is Conclusion.VERIFIED and not done:
        entries.append((messages.INFO, "Consul matches already: nothing to sync."))
    return entries


def _is_of_error(outcome: SyncResult, deviation: Deviation) -> bool:
    """Returns whether the message of the error speaks of the instance already."""
    return isinstance(outcome.error, UnsafePlanError) and deviation.id in outcome.error.would_remove


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
