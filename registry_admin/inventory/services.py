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

from registry_admin.errors import StoreUnavailableError
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import Service, SyncRun
from registry_admin.inventory.passes import Pass, SyncOutcome

logger = logging.getLogger(__name__)


_collected: ContextVar[list[SyncOutcome] | None] = ContextVar("collected", default=None)
_actor: ContextVar[str] = ContextVar("actor", default="")


@contextmanager
def collected_outcomes(actor: str) -> Iterator[list[SyncOutcome]]:
    """Names who is changing declarations in this block, and gives the outcomes of the syncs that it sets off."""
    outcomes: list[SyncOutcome] = []
    tokens = _collected.set(outcomes), _actor.set(actor)
    try:
        yield outcomes
    finally:
        _collected.reset(tokens[0])
        _actor.reset(tokens[1])


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
        outcome = Pass(trigger=SyncRun.Trigger.SAVE, actor=_actor.get(), only=names).make()
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
    names = list(services.exclude(enabled=enabled).values_list("name", flat=True))
    Service.objects.filter(name__in=names).update(enabled=enabled, updated_at=timezone.now())
    if names:
        sync_when_committed(names)
    return len(names)
