"""History of reconciliation runs: a row is written before anything is applied, and completed afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from registry_admin.errors import DatabaseUnavailableError, RegistryError, UnsafePlanError
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import AuditEvent, ConsulContact, HealthTransition, ObservationGap, SyncRun
from registry_admin.inventory.sanitize import sanitized
from registry_admin.inventory.sync.counters import UNCHANGED, CounterName, add_to_counters
from registry_admin.inventory.sync.foreign_history import surplus_in_all
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.plan import Action, PlanItem

PROGRESS_EVERY_S = 1.0
TRAIL_KEPT = timedelta(days=30)  # PostgreSQL refuses to delete what is younger (migrations 0016 and 0018)
GIVEN_UP_AFTER = timedelta(hours=1)  # for runs that aren't a watcher's: no process takes those over
PRUNE_BATCH = 5000
_COUNTED = {
    "registered": Action.REGISTER,
    "updated": Action.UPDATE,
    "deregistered": Action.DEREGISTER,
    "evicted": Action.EVICT,
}
# What may still change after a run has begun, and while: PostgreSQL refuses the rest (migration 0018).
_RESULT_FIELDS = ("outcome", "planned", "seconds", "message", "items", "failed", *_COUNTED)
_UNFINISHED = (SyncRun.Outcome.RUNNING, SyncRun.Outcome.INTERRUPTED, SyncRun.Outcome.ABANDONED)


class RunRecorder:
    """Records one run. Its row exists from `begin` on, or from `finish` on if `begin` had no items.

    A run without changes and faults leaves no row.
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
        """Writes the planned items before the first is applied; writes nothing if there are none."""
        if planned:
            self._row.outcome = SyncRun.Outcome.RUNNING
            self._row.planned = len(planned)
            self._row.items = sanitized([item.as_dict() for item in planned])
            self._row.save()

    def progress(self, results: Sequence[ItemResult]) -> None:
        """Writes the counts so far, at most once a second, in case this process ends in the middle."""
        now = time.monotonic()
        if self._row.pk is None or now - self._written < PROGRESS_EVERY_S:
            return
        self._written = now
        SyncRun.objects.filter(pk=self._row.pk).update(seconds=now - self._started, **_counts(results))

    def finish(self, results: Sequence[ItemResult] = (), *, error: RegistryError | None = None) -> SyncRun | None:
        """Writes the outcome and returns the row, or None if the run needs none; counts the run in any case.

        May be called again, when the database is back. A watcher's repeated failure is one row, not many.
        """
        with transaction.atomic():
            add_to_counters(self._amounts(results, error))
            return self._finish(results, error)

    def _amounts(
        self, results: Sequence[ItemResult], error: RegistryError | None
    ) -> dict[tuple[CounterName, str], float]:
        outcome = str(_outcome(results, error)) if results or error else UNCHANGED
        counts = _counts(results)
        failed = counts.pop("failed")
        return {
            (CounterName.RUNS, outcome): 1,
            (CounterName.RUN_SECONDS, outcome): time.monotonic() - self._started,
            (CounterName.FAILED_CHANGES, ""): failed,
            **{(CounterName.CHANGES, name): count for name, count in counts.items()},
        }

    def _finish(self, results: Sequence[ItemResult], error: RegistryError | None) -> SyncRun | None:
        row = self._row
        row.items = sanitized([result.as_dict() for result in results])
        row.message = sanitized(_message(error, results, planned=row.planned))
        if not _is_worth_a_row(row, results, error):
            if row.pk is not None:
                row.delete()
            return None
        for name, count in _counts(results).items():
            setattr(row, name, count)
        row.outcome = _outcome(results, error)
        row.planned = row.planned or len(results)
        row.seconds = time.monotonic() - self._started
        self._save_result()
        return row

    def _save_result(self) -> None:
        """Completes the row, or inserts it: a commit that failed leaves a key without a row. Never changes a result."""
        kept = SyncRun.objects.filter(pk=self._row.pk)
        values = {name: getattr(self._row, name) for name in _RESULT_FIELDS}
        if not kept.filter(outcome__in=_UNFINISHED).update(**values) and not kept.exists():
            self._row.save(force_insert=True)


def abandon_runs(holder: str) -> int:
    """Closes the runs of watchers whose process has ended: `holder` leads now. Returns how many.

    Runs of others are given up an hour after they began.
    """
    expired = Q(trigger=SyncRun.Trigger.WATCH) | Q(started_at__lt=timezone.now() - GIVEN_UP_AFTER)
    unfinished = SyncRun.objects.filter(expired, outcome=SyncRun.Outcome.RUNNING).exclude(holder=holder).defer("items")
    return sum(
        SyncRun.objects.filter(pk=run.pk, outcome=SyncRun.Outcome.RUNNING).update(
            outcome=SyncRun.Outcome.ABANDONED,
            message=f"Its process ended in the middle: {_how_far(run)} are known to be done.",
        )
        for run in unfinished
    )


def _old_runs(before: datetime) -> QuerySet[SyncRun]:
    """Returns runs to delete: a person's run is part of the audit trail, and as old as that at least."""
    of_the_trail = Q(started_at__lt=timezone.now() - TRAIL_KEPT)
    return SyncRun.objects.filter(Q(trigger=SyncRun.Trigger.WATCH) | of_the_trail, started_at__lt=before)


_HISTORY: dict[str, Callable[[datetime], QuerySet[Any]]] = {
    "runs": _old_runs,
    "transitions": lambda before: HealthTransition.objects.filter(at__lt=before),
    "audit_events": lambda _before: AuditEvent.objects.filter(
        at__lt=timezone.now() - timedelta(seconds=conf.audit_retention_s)
    ),
    "gaps": lambda before: ObservationGap.objects.filter(ended_at__lt=before),
}


def register_history(name: str, rows_before: Callable[[datetime], QuerySet[Any]]) -> None:
    """Lets `prune_history` delete the rows of another app too. `rows_before`: returns those older than a time."""
    _HISTORY[name] = rows_before


def prune_history(older_than: timedelta, *, dry_run: bool = False, now: datetime | None = None) -> dict[str, int]:
    """Deletes what is older than this, in batches; returns how many rows of each kind (or would, dry).

    Of instances that aren't declared, only a number of changes of health is kept in all, however old they are.

    Who changed which declaration is kept: that grows with what people do, not with what happens.
    """
    before = (now or timezone.now()) - older_than
    old = {name: rows_before(before) for name, rows_before in _HISTORY.items()}
    if not dry_run:
        _delete(surplus_in_all())
    return {name: rows.count() if dry_run else _delete(rows) for name, rows in old.items()}


def _delete(rows: QuerySet[Any]) -> int:
    deleted = 0
    while keys := list(rows.order_by("pk").values_list("pk", flat=True)[:PRUNE_BATCH]):
        deleted += rows.filter(pk__in=keys).delete()[0]
    return deleted


def _is_worth_a_row(row: SyncRun, results: Sequence[ItemResult], error: RegistryError | None) -> bool:
    if not results and error is None:
        return row.pk is not None and row.trigger != SyncRun.Trigger.WATCH
    is_a_watcher_s_failure = row.trigger == SyncRun.Trigger.WATCH and not any(result.ok for result in results)
    return not (is_a_watcher_s_failure and _is_known_failure(row))


def _is_known_failure(row: SyncRun) -> bool:
    """Returns whether the watcher's latest run failed in the same way, with Consul's reachability unchanged since."""
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
    if isinstance(error, DatabaseUnavailableError):
        return f"{sum(result.ok for result in results)} of {planned or len(results)} applied. {error}"
    return str(error or "")


def _outcome(results: Sequence[ItemResult], error: RegistryError | None) -> SyncRun.Outcome:
    if isinstance(error, UnsafePlanError):
        return SyncRun.Outcome.REFUSED
    if isinstance(error, DatabaseUnavailableError):
        return SyncRun.Outcome.INTERRUPTED
    if error is not None:
        return SyncRun.Outcome.FAILED
    return SyncRun.Outcome.PARTIAL if not all(result.ok for result in results) else SyncRun.Outcome.DONE


def _how_far(run: SyncRun) -> str:
    return f"{sum(getattr(run, name) for name in _COUNTED)} of {run.planned}"
