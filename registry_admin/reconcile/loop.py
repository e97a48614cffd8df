"""The loop behind `sync_registry --watch`: reconciles whenever Consul changes, and at regular intervals."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from registry_admin.backoff import ExponentialBackoff, spread
from registry_admin.consul.api import ConsulApi, ConsulReply
from registry_admin.consul.own_node import failing_on_one_side
from registry_admin.consul.watch import watch
from registry_admin.errors import RegistryError

logger = logging.getLogger(__name__)

# Every change moves one of these: registrations, or checks that don't pass. Their replies are small, where that of
# /v1/health/state/any is as long as all checks together, and would be fetched beside the snapshot that follows.
WATCHED = (("catalog", "services"), ("health", "state", "critical"), ("health", "state", "warning"))
SETTLE_S = 0.1  # a run's own changes wake the loop too: all wake-ups until then are one more run
FAILED_SETTLE_S = 1.0  # Consul may change all the time while, say, the database is away
FAILED = ExponentialBackoff(first_s=1.0, longest_s=30.0, jitter=0.5)
SPREAD = 0.1  # of the time between full runs, so that several watchers don't read Consul all at once
ALIVE_CHECK_EVERY_S = 5.0
ALIVE_CHECK_TIMEOUT_S = 3.0
ALIVE_EVERY_S = 10.0


class ReconcileLoop:
    """Calls `reconcile` until stopped. A wake-up carries no facts: each run reads both sides whole."""

    def __init__(
        self,
        api: ConsulApi,
        reconcile: Callable[[], float | None],
        *,
        every_s: float = 300.0,
        on_alive: Callable[[], object] = lambda: None,
        on_schedule: Callable[[float], object] = lambda _seconds: None,
        pulse_s: float = ALIVE_CHECK_EVERY_S,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        """`reconcile` returns the seconds until its next call at the latest, or None.

        `every_s` is the time between runs while nothing happens, ± 10 %. `on_schedule` gets the seconds until the next
        run, after each run. `on_alive` is called from a thread of its own, at most every 10 s, while Consul answers and
        has a leader. `random_share` returns numbers from 0 to 1.
        """
        self._api = api
        self._reconcile = reconcile
        self._every_s = every_s
        self._on_alive, self._on_schedule = on_alive, on_schedule
        self._pulse_s = pulse_s
        self._random_share = random_share
        # An Event or a Lock taken in a signal handler could wait for ever for the very thread that it interrupted.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._stop = threading.Event()

    def wake(self) -> None:
        """Starts a run soon. May be called from any thread, and from a signal handler."""
        self._wakeups.put(None)

    @property
    def is_stopping(self) -> bool:
        """True after `stop` was called."""
        return self._stopping

    def stop(self) -> None:
        """Ends `run` after the current `reconcile`. May be called from any thread, and from a signal handler."""
        self._stopping = True
        self._wakeups.put(None)

    def run(self) -> None:
        """Reconciles until `stop` is called. After a failure it tries again with growing pauses."""
        for path in WATCHED:
            threading.Thread(target=self._wake_on, args=path, name=f"watch-{path[-1]}", daemon=True).start()
        threading.Thread(target=self._check_alive, name="watch-pulse", daemon=True).start()
        try:
            self._run_until_stopped()
        finally:
            self._stop.set()

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _run_until_stopped(self) -> None:
        failures, last_error = 0, ""
        while not self._stopping:
            while not self._wakeups.empty():  # this run covers all wake-ups until now
                self._wakeups.get()
            try:
                next_in_s = self._reconcile()
            except RegistryError as error:
                failures += 1
                pause, settle = self._pause_after(failures), FAILED_SETTLE_S
                # An error that lasts is logged once: repeating it would bury everything else.
                level = logging.DEBUG if str(error) == last_error else logging.WARNING
                facts = {"event": "pass_failed", "reason": str(error), "retry_in_s": round(pause, 1)}
                logger.log(level, "pass failed", extra=facts)
                last_error = str(error)
            else:
                if failures:
                    logger.info("all is well again", extra={"event": "recovered"})
                failures, last_error = 0, ""
                pause, settle = self._pause(next_in_s), SETTLE_S
            self._on_schedule(pause)
            self._wait(pause, settle=settle)

    def _pause(self, next_in_s: float | None) -> float:
        pause = spread(self._every_s, SPREAD, self._random_share())
        return pause if next_in_s is None else min(pause, max(next_in_s, 0.0))

    def _pause_after(self, failures: int) -> float:
        return FAILED.pause_s(failures, self._random_share())

    def _wait(self, pause: float, *, settle: float) -> None:
        """Waits `pause` seconds, or until a wake-up, but at least `settle` seconds."""
        ended = time.monotonic()
        until, earliest = ended + max(pause, settle), ended + settle
        while not self._stopping and (left := until - time.monotonic()) > 0:
            try:
                self._wakeups.get(timeout=left)
            except queue.Empty:
                return
            until = min(until, earliest)

    # -- what wakes it ------------------------------------------------------------------------------------------------

    def _wake_on(self, *path: str) -> None:
        failing = False

        def read(index: int, wait_s: float) -> ConsulReply[str]:
            return self._api.text(*path, index=index, wait_s=wait_s)

        def on_error(error: RegistryError, _pause: float) -> None:
            nonlocal failing
            logger.debug("watch failed", extra={"event": "watch_failed", "watch": path[-1], "reason": str(error)})
            if not failing:
                self.wake()  # the next run fails, and tells people that Consul is away
            failing = True

        for reply in watch(read, stop=self._stop, on_error=on_error):
            failing = False
            logger.debug("%s changed", path[-1], extra={"event": "changed", "watch": path[-1], "index": reply.index})
            self.wake()

    def _check_alive(self) -> None:
        """Wakes the loop on what the watches would miss or notice late.

        That is when Consul hangs, loses its leader or is back, and what fails at the agent only.
        """
        config = replace(self._api.config, connect_timeout=ALIVE_CHECK_TIMEOUT_S, read_timeout=ALIVE_CHECK_TIMEOUT_S)
        api = ConsulApi(config)
        was_alive, reported_at, parted = True, -ALIVE_EVERY_S, _parted_checks(api)
        try:
            while not self._stop.wait(self._pulse_s):
                alive = _is_alive(api)
                if alive is not was_alive:
                    logger.debug("pulse", extra={"event": "pulse", "alive": alive})
                    self.wake()
                was_alive = alive
                if alive and (now_parted := _parted_checks(api)) != parted:
                    parted = now_parted
                    self.wake()
                if alive and time.monotonic() - reported_at >= ALIVE_EVERY_S:
                    reported_at = time.monotonic()
                    self._on_alive()
        finally:
            api.close()


def _parted_checks(api: ConsulApi) -> frozenset[tuple[str, str]]:
    """Returns the checks that fail at the agent only: where it can't tell the catalog, the watches see nothing."""
    try:
        return failing_on_one_side(api)
    except RegistryError:
        return frozenset()


def _is_alive(api: ConsulApi) -> bool:
    try:
        return bool(api.leader())
    except RegistryError:
        return False
