"""What was done and what became of it, as rows: there before anything is applied, and kept for as long as is wished."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone

from registry_admin.errors import RegistryError, StoreUnavailableError, UnsafePlanError
from registry_admin.inventory.bulk import update_rows
from registry_admin.inventory.models import CallCount, ConsulContact, HealthTransition, ObservationGap, SyncRun
from registry_admin.inventory.storable import storable
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.plan import Action, PlanItem

PROGRESS_EVERY_S = 1.0
GIVEN_UP_AFTER = timedelta(hours=1)  # for runs of others than watchers: nobody takes those over
PRUNE_BATCH = 5000
_COUNTED = {
    "registered": Action.REGISTER,
    "updated": Action.UPDATE,
    "deregistered": Action.DEREGISTER,
    "evicted": Action.EVICT,
}


class Run:
    """One pass, from before its first look on. It has a row from `begin` on, or else from `finish` on if it needs one.

    A pass that finds nothing to do and meets no fault leaves no row.
    """

    def __init__(self, *, trigger: str, actor: str = "", only: Collection[str] | None = None, holder: str = "") -> None:
        self._row = SyncRun(
            trigger=trigger, actor=actor[:150], scope=sorted(only or ()), holder=holder[:200], started_at=timezone.now()
        )
        self._started = time.monotonic()
        self._written = self._started

    @property
    def pk(self) -> int | None:
        """The row's key, once it has one."""
        return self._row.pk

    def begin(self, planned: Sequence[PlanItem]) -> None:
        """Writes down what is to be done, before any of it is; nothing where nothing is."""
        if planned:
            self._row.outcome = SyncRun.Outcome.RUNNING
            self._row.planned = len(planned)
            self._row.items = storable([item.as_dict() for item in planned])
            self._row.save()

    def progress(self, results: Sequence[ItemResult]) -> None:
        """Writes down how far it has come, at most once a second: what is known of it should this process end."""
        now = time.monotonic()
        if self._row.pk is None or now - self._written < PROGRESS_EVERY_S:
            return
        self._written = now
        SyncRun.objects.filter(pk=self._row.pk).update(seconds=now - self._started, **_counts(results))

    def finish(self, results: Sequence[ItemResult] = (), *, error: RegistryError | None = None) -> SyncRun | None:
        """Writes down what became of it, and returns its row, or None where there is nothing to tell.

        May be called again, when the database is back. A watcher's repeated failure is one row, not many.
        """
        row = self._row
        row.items = storable([result.as_dict() for result in results])
        row.message = storable(_message(error, results, planned=row.planned))
        if not _is_worth_a_row(row, results, error):
            if row.pk is not None:
                row.delete()
            return None
        for name, count in _counts(results).items():
            setattr(row, name, count)
        row.outcome = _verdict(results, error)
        row.planned = row.planned or len(results)
        row.seconds = time.monotonic() - self._started
        row.save()
        return row


def abandon_runs(holder: str) -> int:
    """Closes the runs of watchers whose process has ended: `holder` leads now. Returns how many.

    Runs of others are given up an hour after they began.
    """
    theirs = Q(trigger=SyncRun.Trigger.WATCH) | Q(started_at__lt=timezone.now() - GIVEN_UP_AFTER)
    left = SyncRun.objects.filter(theirs, outcome=SyncRun.Outcome.RUNNING).exclude(holder=holder).defer("items")
    rows = [
        (run.pk, SyncRun.Outcome.ABANDONED, f"Its process ended in the middle: {_how_far(run)} are known to be done.")
        for run in left
    ]
    update_rows(SyncRun, rows, ["outcome", "message"])
    return len(rows)


def prune(older_than: timedelta, *, dry_run: bool = False, now: datetime | None = None) -> dict[str, int]:
    """Deletes what is older than this, in batches; returns how many rows of each kind (or would, dry).

    Who changed which declaration is kept: that grows with what people do, not with what happens.
    """
    before = (now or timezone.now()) - older_than
    old: dict[str, QuerySet[Any]] = {
        "runs": SyncRun.objects.filter(started_at__lt=before),
        "transitions": HealthTransition.objects.filter(at__lt=before),
        "gaps": ObservationGap.objects.filter(ended_at__lt=before),
        "calls": CallCount.objects.filter(at__lt=before),
    }
    return {name: rows.count() if dry_run else _delete(rows) for name, rows in old.items()}


def _delete(rows: QuerySet[Any]) -> int:
    deleted = 0
    while keys := list(rows.order_by("pk").values_list("pk", flat=True)[:PRUNE_BATCH]):
        deleted += rows.filter(pk__in=keys).delete()[0]
    return deleted


def _is_worth_a_row(row: SyncRun, results: Sequence[ItemResult], error: RegistryError | None) -> bool:
    if not results and error is None:
        return False
    is_a_watcher_s_failure = row.trigger == SyncRun.Trigger.WATCH and not any(result.ok for result in results)
    return not (is_a_watcher_s_failure and _is_known_failure(row))


def _is_known_failure(row: SyncRun) -> bool:
    """Whether the watcher's latest run failed just so, and Consul has neither gone nor come back since."""
    latest = SyncRun.objects.filter(trigger=SyncRun.Trigger.WATCH).exclude(pk=row.pk).first()
    if latest is None or (latest.message, _faults(latest.items)) != (row.message, _faults(row.items)):
        return False
    contact = ConsulContact.objects.filter(pk=1).first()
    return contact is None or latest.started_at + timedelta(seconds=latest.seconds) >= contact.since


def _faults(items: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {item["id"]: item.get("error", "") for item in items}


def _counts(results: Sequence[ItemResult]) -> dict[str, int]:
    done = [result.item.action for result in results if result.ok]
    return {name: done.count(action) for name, action in _COUNTED.items()} | {"failed": len(results) - len(done)}


def _message(error: RegistryError | None, results: Sequence[ItemResult], *, planned: int) -> str:
    if isinstance(error, StoreUnavailableError):
        return f"{sum(result.ok for result in results)} of {planned or len(results)} applied. {error}"
    return str(error or "")


def _verdict(results: Sequence[ItemResult], error: RegistryError | None) -> SyncRun.Outcome:
    if isinstance(error, UnsafePlanError):
        return SyncRun.Outcome.REFUSED
    if isinstance(error, StoreUnavailableError):
        return SyncRun.Outcome.INTERRUPTED
    if error is not None:
        return SyncRun.Outcome.FAILED
    return SyncRun.Outcome.PARTIAL if not all(result.ok for result in results) else SyncRun.Outcome.DONE


def _how_far(run: SyncRun) -> str:
    return f"{sum(getattr(run, name) for name in _COUNTED)} of {run.planned}"
