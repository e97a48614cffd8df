"""What the leading watcher does: whom it evicts and brings back, what it tries again and when, and what it tells."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from statistics import median

from django.db import close_old_connections, connections
from django.utils import timezone

from registry_admin.consul import Health, Observation, ServiceInstance, ServiceSpec, validation
from registry_admin.errors import StoreUnavailableError, UnsafePlanError
from registry_admin.inventory import history, mirror, selectors
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.lease import LeaseKeeper
from registry_admin.inventory.models import HealthTransition, SyncRun
from registry_admin.inventory.passes import Pass, SyncOutcome
from registry_admin.inventory.selectors import Inventory, RecentChanges
from registry_admin.inventory.store import database_errors
from registry_admin.reconcile import eviction
from registry_admin.reconcile.backoff import Backoff, Repairs
from registry_admin.reconcile.plan import Cause, PlanItem
from registry_admin.reconcile.probing import Prober
from registry_admin.reconcile.rendering import PAST, visible
from registry_admin.reconcile.watcher import Watcher

logger = logging.getLogger(__name__)

TIDY_UP_EVERY = timedelta(hours=1)
AGAIN_S = 1.0  # for what was planned, and not begun
_BY_HAND = (Cause.EDITED, Cause.REMOVED)


class Leadership:
    """One time of leading: what the watcher adds to a pass, and what it has to remember from one pass to the next."""

    def __init__(self, lease: LeaseKeeper, *, prune: bool, force: bool) -> None:
        self.answering: set[str] = set()
        self._lease = lease
        self._prune, self._force = prune, force
        self._backoff = Backoff()
        self._prober = Prober(self._answers, consul_host=consul_api().config.host)
        self._verdict = eviction.Verdict()
        self._recent = RecentChanges(evictions={}, flapping={})
        self._node = ""
        self._unfinished: list[Callable[[], object]] = []
        self._ages = eviction.Ages()
        self._repairs = Repairs()
        self._is_well = False
        self._tidied_at = -math.inf
        self._said = ""
        self._is_settled = False
        self.watcher = Watcher(
            consul_api(), self._pass, every_s=conf.pass_interval_s, on_alive=self._alive, on_schedule=self._scheduled
        )

    def run(self) -> None:
        """Passes until the watcher is stopped."""
        try:
            self.watcher.run()
        finally:
            self._prober.stop()

    # -- what services.sync asks of it --------------------------------------------------------------------------------

    @property
    def holder(self) -> str:
        """Who makes the run."""
        return self._lease.holder

    def evictions(self, observation: Observation, inventory: Inventory) -> Mapping[str, str]:
        """Whose time is up, and why."""
        now = timezone.now()
        since = selectors.critical_since(observation.node)
        ages = self._ages.seconds(since, now=now, forward=time.monotonic())
        self._recent = selectors.recent_changes(now)
        specs = {one.spec.id: one.spec for one in inventory.declared if one.enabled}
        critical = [
            eviction.Critical(
                id=key,
                service=have.service,
                for_s=ages.get(key, 0.0),
                after_s=_evict_after_s(have, specs.get(key)),
                evictions=self._recent.evictions.get((observation.node, key), 0),
                output=have.output,
            )
            for key, have in observation.here.items()
            if have.health is Health.CRITICAL
        ]
        intervals = [validation.seconds(spec.check.interval) for spec in specs.values()]
        halted = self._verdict.halted
        self._verdict = eviction.decide(critical, instances=len(observation.here), window_s=median(intervals or [10.0]))
        if self._verdict.halted != halted:
            if self._verdict.halted:
                logger.warning("%s", self._verdict.halted, extra={"event": "eviction_halted"})
            else:
                logger.info("evicting again", extra={"event": "eviction_resumed"})
        self._node = observation.node
        return self._verdict.evict

    @property
    def halted(self) -> str:
        """Why nothing is evicted now."""
        return self._verdict.halted

    @property
    def notes(self) -> Mapping[tuple[str, str], str]:
        """What flaps, and what is registered and evicted in turns, by node and ID."""
        fights = {(self._node, key): text for key, text in self._verdict.fights.items()}
        wars = {(self._node, key): text for key, text in self._repairs.texts(time.monotonic()).items()}
        return {**self._recent.flapping, **wars, **fights}

    def holds_back(self, item: PlanItem) -> bool:
        """Whether it failed lately, or is put right all the time, and its turn hasn't come."""
        now = time.monotonic()
        if item.cause in _BY_HAND and self._repairs.wait_s(item.id, now):
            return True
        return not self._backoff.is_due(item.id, _digest(item), now)

    def note_transition(self, transition: HealthTransition) -> None:
        """For the log: that an instance turned critical comes before that it is evicted."""
        if transition.before and transition.after != HealthTransition.EVICTED:
            facts = {
                "event": "health", "instance": transition.consul_id, "service": transition.service_name,
                "before": transition.before, "output": transition.output[:200],
            }  # fmt: skip
            bad = transition.after in (Health.CRITICAL, Health.WARNING)
            logger.log(logging.WARNING if bad else logging.INFO, "%s", transition.after or "gone", extra=facts)

    def may_go_on(self) -> str:
        """Why nothing more may be begun, or nothing."""
        if not self._lease.is_held:
            return "another watcher leads now"
        return "the watcher is being stopped" if self.watcher.is_stopping else ""

    def confirm(self) -> bool:
        """Asks the database itself whether we lead, before a plan with removals is begun."""
        return self._lease.confirm()

    # -- the watcher's callbacks --------------------------------------------------------------------------------------

    def _pass(self) -> float | None:
        self._is_well = False
        close_old_connections()
        self._finish_runs()
        self._tidy_up()
        answering = frozenset(self.answering)
        outcome = Pass(
            trigger=SyncRun.Trigger.WATCH,
            prune=self._prune,
            force=self._force,
            answering=answering,
            supervision=self,
        ).make()
        self.answering -= answering
        self._note(outcome)
        if outcome.unfinished is not None:
            self._unfinished.append(outcome.unfinished)
        if outcome.error is not None and not isinstance(outcome.error, UnsafePlanError):
            raise outcome.error
        self._is_well = True
        if not self._is_settled:  # what all passes share needn't be looked through for garbage again and again
            gc.collect()
            gc.freeze()
            self._is_settled = True
        return self._next(outcome)

    def _note(self, outcome: SyncOutcome) -> None:
        now = time.monotonic()
        for result in outcome.results:
            item = result.item
            facts = {
                "event": str(item.action), "instance": item.id, "service": item.service, "reason": item.reason,
                "cause": str(item.cause or ""), "seconds": result.seconds,
                **({"changed": ", ".join(change.field for change in item.changes)} if item.changes else {}),
            }  # fmt: skip
            if result.ok:
                self._backoff.succeeded(item.id)
                if item.cause in _BY_HAND:
                    self._repairs.note(item.id, now)
                logger.info("%s", PAST[item.action], extra=facts)
            elif result.tried:
                again_s = self._backoff.failed(item.id, _digest(item), now)
                logger.error("failed to %s", item.action, extra=facts | {"error": result.error, "retry_in_s": again_s})
        if outcome.plan is not None:
            self._backoff.keep_only({item.id for item in outcome.plan.changes})
        problem = "; ".join(f"{key}: {why}" for key, why in sorted(outcome.broken.items()))
        if isinstance(outcome.error, UnsafePlanError):
            problem = f"{outcome.error} Would remove: {', '.join(outcome.error.would_remove)}"
        if problem != self._said:
            level, event = (logging.WARNING, "problem") if problem else (logging.INFO, "recovered")
            logger.log(level, "%s", visible(problem) or "all is well again", extra={"event": event})
            self._said = problem

    def _next(self, outcome: SyncOutcome) -> float | None:
        """Sets out the probes, and returns in how many seconds something falls due."""
        now = timezone.now()
        waits = {
            key: min(0.0, (since - now).total_seconds())
            + eviction.hold_s(self._recent.evictions.get((self._node, key), 0))
            for key, (since, _) in outcome.evicted.items()
        }
        self._prober.watch({key: outcome.evicted[key][1] for key, wait_s in waits.items() if wait_s <= 0})
        due = [wait_s for wait_s in waits.values() if wait_s > 0]
        due += [s for s in (self._verdict.next_in_s, self._backoff.next_in_s(time.monotonic())) if s is not None]
        changes = outcome.plan.changes if outcome.plan else ()
        due += [wait_s for item in changes if (wait_s := self._repairs.wait_s(item.id, time.monotonic()))]
        begun = {result.item.id for result in outcome.results if result.tried}
        if any(item.id not in begun and not self.holds_back(item) for item in changes):
            due.append(AGAIN_S)
        return min(due, default=None)

    def _answers(self, instance_id: str) -> None:
        self.answering.add(instance_id)
        self.watcher.wake()

    def _alive(self) -> None:
        """Consul answers, though nothing has changed: what the last pass saw holds. On a thread of its own."""
        if not self._is_well:
            return  # nobody knows what holds
        try:
            with database_errors():
                is_known = mirror.contact_seen()
            if not is_known:  # somebody else has met a fault that is over
                self.watcher.wake()
        except StoreUnavailableError as error:
            logger.debug("%s", error)
        finally:
            connections.close_all()

    def _scheduled(self, seconds: float) -> None:
        self._lease.note_next_pass(timezone.now() + timedelta(seconds=seconds))

    def _finish_runs(self) -> None:
        """Writes down runs that the database's absence has cut short."""
        with database_errors():
            while self._unfinished:
                self._unfinished[-1]()
                self._unfinished.pop()

    def _tidy_up(self) -> None:
        """Closes the runs whose process has ended, and forgets old history: at first, and then every hour."""
        now = time.monotonic()
        if now - self._tidied_at < TIDY_UP_EVERY.total_seconds():
            return
        with database_errors():
            abandoned = history.abandon_runs(self._lease.holder)
            counts = history.prune(timedelta(seconds=conf.history_kept_s))
        self._tidied_at = now
        if abandoned:
            logger.warning("runs of a former leader were abandoned", extra={"event": "abandoned", "runs": abandoned})
        if any(counts.values()):
            logger.info("old history is deleted", extra={"event": "history_pruned", **counts})


def _digest(item: PlanItem) -> str:
    return item.spec.digest if item.spec else ""


def _evict_after_s(have: ServiceInstance, spec: ServiceSpec | None) -> float | None:
    """After how many seconds of being critical it is taken out; None: never, or not by us.

    Only our own check counts, as it does for Consul: what a check of the node, or of somebody else, says of an instance
    doesn't tell that it is dead. One that hasn't been asked yet begins as critical.
    """
    own = [check for check in have.checks if check.status == "critical" and check.id.startswith(f"{have.id}:")]
    after = spec.evict_after if spec else have.evict_after if have.registered_itself else ""
    if not (own and after) or have.owner not in ("", conf.owner):
        return None
    if spec and not any(check.output for check in own):
        until_asked_s = validation.seconds(spec.check.interval) + validation.seconds(spec.check.timeout)
        return max(validation.seconds(after), until_asked_s)
    return validation.seconds(after)
