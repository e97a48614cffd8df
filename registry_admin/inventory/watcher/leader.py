"""The leading watcher: runs the reconciler whenever something changes, and keeps the order of what belongs to a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta

from django.db import close_old_connections, connections
from django.utils import timezone

from registry_admin.consul import Snapshot
from registry_admin.errors import DatabaseUnavailableError, UnsafePlanError
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.models import HealthTransition, SyncRun
from registry_admin.inventory.selectors import Inventory
from registry_admin.inventory.sync import mirror
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.watcher.event_log import EventLog
from registry_admin.inventory.watcher.evictor import Evictor
from registry_admin.inventory.watcher.housekeeping import Housekeeper
from registry_admin.inventory.watcher.item_retries import ItemRetries
from registry_admin.inventory.watcher.lease import LeaseKeeper
from registry_admin.reconcile.loop import ReconcileLoop
from registry_admin.reconcile.plan import PlanItem

logger = logging.getLogger(__name__)


class Leader:
    """One term of leadership, and the `ReconcileHooks` of its runs."""

    def __init__(self, lease: LeaseKeeper, *, prune: bool) -> None:
        self._lease = lease
        self._prune = prune
        self._events = EventLog()
        self._housekeeper = Housekeeper(lease.holder, events=self._events)
        self._retries = ItemRetries()
        self._evictor = Evictor(consul=consul_api().config, on_recovery=self.wake)
        self._is_mirror_current = False
        self._has_judged = False
        self.last_run_at = 0.0  # seconds since the epoch, of the last run that read all of Consul; 0: none yet
        self._token_digest = consul_api().token_digest
        self._loop = ReconcileLoop(
            consul_api(),
            self._reconcile_watched,
            every_s=conf.pass_interval_s,
            on_alive=self._confirm_contact,
            on_schedule=self._announce_next_run,
        )

    def run(self) -> None:
        """Reconciles until `stop` is called."""
        try:
            self._loop.run()
        finally:
            self._evictor.stop()

    def wake(self) -> None:
        """Starts a run soon. May be called from any thread."""
        self._loop.wake()

    def stop(self) -> None:
        """Ends `run` after the current run. May be called from any thread, and from a signal handler."""
        self._loop.stop()

    # -- ReconcileHooks -----------------------------------------------------------------------------------------------

    @property
    def holder(self) -> str:
        """Identity of this process, as in the lease."""
        return self._lease.holder

    @property
    def halted(self) -> str:
        """Reason for evicting nothing at present, or an empty string."""
        return self._evictor.halted

    @property
    def notes(self) -> Mapping[tuple[str, str], str]:
        """Remarks by node and instance ID: flapping, edit wars and eviction fights."""
        return self._evictor.notes(self._retries.contention_messages())

    def evictions(self, snapshot: Snapshot, inventory: Inventory) -> Mapping[str, str]:
        """Returns the reasons for eviction by instance ID."""
        evictions = self._evictor.decide(snapshot, inventory)
        self._has_judged = True
        self._events.log_eviction_state(self._evictor.halted, is_alarming=self._evictor.is_alarming)
        return evictions

    def is_deferred(self, item: PlanItem) -> bool:
        """Returns whether the item must wait for its retry."""
        return self._retries.is_deferred(item)

    def on_transition(self, transition: HealthTransition) -> None:
        """Logs a change of health."""
        self._events.log_transition(transition)

    def stop_reason(self) -> str:
        """Returns why nothing more may be begun, or an empty string."""
        self._lease.progress()
        if not self._lease.is_leader:
            return "another watcher leads now"
        return "the watcher is being stopped" if self._loop.is_stopping else ""

    def confirm_leadership(self) -> bool:
        """Returns whether the database confirms the lease; asked before a plan with removals is begun."""
        return self._lease.confirm()

    # -- callbacks of the loop ----------------------------------------------------------------------------------------

    def _reconcile_watched(self) -> float | None:
        """Makes one run; a run that hangs loses the lease."""
        with self._lease.working():
            return self._reconcile()

    def _reconcile(self) -> float | None:
        """Makes one run; returns the seconds until the next one is due, or None."""
        if not self._has_judged:
            self._evictor.lose_sight()
        self._is_mirror_current = self._has_judged = False
        close_old_connections()
        self._housekeeper.work()
        recovered, retried = self._evictor.recovered, self._evictor.retried
        token_digest = consul_api().token_digest
        result = Reconciler(
            trigger=SyncRun.Trigger.WATCH,
            prune=self._prune,
            recovered=recovered,
            retried=retried,
            token_changed=token_digest != self._token_digest,
            hooks=self,
        ).run()
        self._evictor.forget_returning(recovered | retried)
        self._events.log_run(result, self._retries.record(result))
        if result.finish_run is not None:
            self._housekeeper.add_unfinished(result.finish_run)
        if result.error is not None and not isinstance(result.error, UnsafePlanError):
            raise result.error
        if not result.failures:  # what an agent has was registered with this token
            self._token_digest = token_digest
        self._is_mirror_current = True
        self.last_run_at = time.time()
        self._housekeeper.freeze_shared_objects()
        due_s = (self._evictor.schedule(result.evicted), self._retries.next_in_s(result), result.next_look_s)
        return min((seconds for seconds in due_s if seconds is not None), default=None)

    def _confirm_contact(self) -> None:
        """Records that Consul answers and the mirror still holds. Called on a thread of the loop's."""
        if not self._is_mirror_current:
            return
        try:
            with database_errors():
                is_recorded = mirror.touch_contact()
            if not is_recorded:  # another process recorded a fault meanwhile; only a run can tell whether it is over
                self.wake()
        except DatabaseUnavailableError as error:
            logger.debug("%s", error)
        finally:
            connections.close_all()

    def _announce_next_run(self, seconds: float) -> None:
        self._lease.announce_next_run(timezone.now() + timedelta(seconds=seconds))
