"""Writes: syncing what was just saved, and switching declarations on and off. Signals and the admin call these."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from simple_history.utils import bulk_update_with_history

from registry_admin.errors import StoreUnavailableError
from registry_admin.inventory import acting
from registry_admin.inventory.bulk import BATCH
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import Service, SyncRun
from registry_admin.inventory.passes import Pass, SyncOutcome

logger = logging.getLogger(__name__)


_collected: ContextVar[list[SyncOutcome] | None] = ContextVar("collected", default=None)


@contextmanager
def collected_outcomes() -> Iterator[list[SyncOutcome]]:
    """Gives the outcomes of the syncs that what is saved in this block sets off."""
    outcomes: list[SyncOutcome] = []
    token = _collected.set(outcomes)
    try:
        yield outcomes
    finally:
        _collected.reset(token)


def sync_when_committed(names: Iterable[str]) -> None:
    """Syncs these services once the transaction has committed; all that one transaction changes make a single pass."""
    if not conf.sync_on_save:
        return
    hooks = (getattr(hook, "__self__", None) for _, hook, _ in transaction.get_connection().run_on_commit)
    pending = next((changed for changed in hooks if isinstance(changed, _ChangedByTransaction)), None)
    if pending is not None:
        pending.names.update(names)
    else:
        transaction.on_commit(_ChangedByTransaction(set(names)).sync, robust=True)


@dataclass(frozen=True)
class _ChangedByTransaction:
    """The services that a transaction has changed; they are forgotten with it when it is rolled back."""

    names: set[str]

    def sync(self) -> None:
        """Once it has committed."""
        _sync_saved(frozenset(self.names))


def _sync_saved(names: frozenset[str]) -> None:
    try:
        outcome = Pass(trigger=SyncRun.Trigger.SAVE, actor=acting.current().name, only=names).make()
    except StoreUnavailableError as error:  # the save itself went well
        outcome = SyncOutcome(error=error)
    if outcome.error:
        logger.warning("saved, but not synced yet: %s", outcome.error)
    collected = _collected.get()
    if collected is not None:
        collected.append(outcome)


@transaction.atomic
def set_enabled(services: QuerySet[Service], *, enabled: bool) -> int:
    """Switches these declarations on or off and syncs them; returns how many changed."""
    changed = list(services.exclude(enabled=enabled))
    now = timezone.now()
    for service in changed:
        service.enabled, service.updated_at = enabled, now
    if changed:
        bulk_update_with_history(changed, Service, ["enabled", "updated_at"], batch_size=BATCH)
        sync_when_committed([service.name for service in changed])
    return len(changed)
