"""Syncing declarations once the transaction that changes them has committed. Called by signals and the admin."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from simple_history.utils import bulk_update_with_history

from registry_admin.errors import DatabaseUnavailableError
from registry_admin.inventory.actor import current_actor
from registry_admin.inventory.audit_trail import record_act
from registry_admin.inventory.bulk_update import BATCH
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import AuditEvent, Service, SyncRun
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.removals import approve_removals, ids_of_services, withdraw_approvals
from registry_admin.inventory.sync.result import SyncResult

logger = logging.getLogger(__name__)


class _ChangedServices:
    """Names of services that were changed, to be synced together once."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        self._names.update(names)

    def sync(self) -> list[SyncResult]:
        """Syncs the services in a single run, and forgets them. Returns its result, or nothing without a change."""
        if getattr(_open, "changed", _no_changes)() is self:
            _open.changed = _no_changes  # a traceback of this sync may outlive the transaction
        names, self._names = frozenset(self._names), set()
        return [_sync_saved(names)] if names else []


_block: ContextVar[_ChangedServices | None] = ContextVar("block", default=None)
_open = threading.local()  # `changed`: a weak reference to the changes of this thread's open transaction


def _no_changes() -> _ChangedServices | None:
    return None


@contextmanager
def syncing_on_commit() -> Iterator[list[SyncResult]]:
    """Syncs at the end of the block what was committed within it. The list that it yields has the results then."""
    changed, results = _ChangedServices(), list[SyncResult]()
    token = _block.set(changed)
    try:
        yield results
    finally:
        _block.reset(token)
        try:
            results += changed.sync()
        except Exception:  # the save itself went well, and the watcher syncs it: as Django's robust hooks do
            logger.exception("saved, but the sync failed")


def sync_on_commit(names: Iterable[str]) -> None:
    """Syncs these services once the transaction has committed: at the end of `syncing_on_commit`, else at once.

    All changes of one transaction make a single run. Those of a transaction that is rolled back make none.
    """
    if not conf.sync_on_save:
        return
    block, names = _block.get(), frozenset(names)
    if block is not None:
        transaction.on_commit(lambda: block.add(names), robust=True)
        return
    changed = _changed_in_transaction()
    changed.add(names)
    transaction.on_commit(changed.sync, robust=True)


def _changed_in_transaction() -> _ChangedServices:
    # Only the hooks hold it, and a rollback drops them: what is found here belongs to the transaction that is open.
    changed: _ChangedServices | None = getattr(_open, "changed", _no_changes)()
    if changed is None:
        changed = _ChangedServices()
        _open.changed = weakref.ref(changed)
    return changed


def _sync_saved(names: frozenset[str]) -> SyncResult:
    try:
        result = Reconciler(trigger=SyncRun.Trigger.SAVE, actor=current_actor().name, only=names).run()
    except DatabaseUnavailableError as error:  # the save itself went well
        result = SyncResult(error=error)
    if result.error:
        logger.warning("saved, but not synced yet: %s", result.error)
    return result


@transaction.atomic
def set_enabled(services: QuerySet[Service], *, enabled: bool) -> int:
    """Enables or disables these services and syncs them. Returns how many have changed.

    Disabling names them: each may leave Consul as a whole.
    """
    changed = list(services.exclude(enabled=enabled))
    now = timezone.now()
    for service in changed:
        service.enabled, service.updated_at = enabled, now
    if changed:
        bulk_update_with_history(changed, Service, ["enabled", "updated_at"], batch_size=BATCH)
        consul_ids = ids_of_services(service.pk for service in changed)
        (withdraw_approvals if enabled else approve_removals)(consul_ids)
        names = [service.name for service in changed]
        record_act(AuditEvent.Action.ENABLED if enabled else AuditEvent.Action.DISABLED, target=", ".join(names))
        sync_on_commit(names)
    return len(changed)
