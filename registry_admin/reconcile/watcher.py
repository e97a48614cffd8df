"""The loop behind `sync_registry --watch`: a pass whenever Consul changes, and every so often in any case."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from registry_admin.consul.api import ConsulApi, Reply
from registry_admin.consul.watch import watch
from registry_admin.errors import RegistryError

logger = logging.getLogger(__name__)

# Whatever changes moves one of these: what is registered, or who isn't passing. Their replies are small, where that of
# /v1/health/state/any is as long as all checks together, and would be fetched beside the look that it sets off.
WATCHED = (("catalog", "services"), ("health", "state", "critical"), ("health", "state", "warning"))
SETTLE_S = 0.1  # what a pass itself changes wakes it too: all that comes until then is one more pass
FAILED_SETTLE_S = 1.0  # Consul may change all the time while, say, the database is away
LONGEST_BACKOFF_S = 30.0
SPREAD = 0.1  # of the time between full passes, so that several watchers don't look all at once
BLOCK_S = 60.0  # how long a blocking query lasts: a connection that has silently died is found out that soon
PULSE_S = 5.0
PULSE_TIMEOUT_S = 3.0
ALIVE_EVERY_S = 10.0


class Watcher:
    """Calls `run_pass` until stopped. A wake-up only says "look": the pass itself always reads both sides whole."""

    def __init__(
        self,
        api: ConsulApi,
        run_pass: Callable[[], float | None],
        *,
        every_s: float = 300.0,
        on_alive: Callable[[], object] = lambda: None,
        on_schedule: Callable[[float], object] = lambda _seconds: None,
        pulse_s: float = PULSE_S,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        """`run_pass` returns in how many seconds it wants to be called again at the latest, or None.

        `every_s` is the time between passes while nothing happens, give or take a tenth. `on_schedule` is told after
        each pass in how many seconds the next one is due. `on_alive` is called from a thread of its own, at most every
        10 s, while Consul answers and has a leader. `random_share` gives numbers from 0 to 1.
        """
        self._api = api
        self._run_pass = run_pass
        self._every_s = every_s
        self._on_alive, self._on_schedule = on_alive, on_schedule
        self._pulse_s = pulse_s
        self._random_share = random_share
        # An Event or a Lock taken in a signal handler could wait for ever for the very thread that it interrupted.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._stop = threading.Event()

    def wake(self) -> None:
        """Something has changed: look. May be called from any thread, and from a signal handler."""
        self._wakeups.put(None)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def stop(self) -> None:
        """Ends `run` after the pass that is under way. May be called from any thread, and from a signal handler."""
        self._stopping = True
        self._wakeups.put(None)

    def run(self) -> None:
        """Passes, one after another, until `stop` is called. A pass that fails is repeated with growing pauses."""
        for path in WATCHED:
            threading.Thread(target=self._wake_on, args=path, name=f"watch-{path[-1]}", daemon=True).start()
        threading.Thread(target=self._feel_pulse, name="watch-pulse", daemon=True).start()
        try:
            self._pass_after_pass()
        finally:
            self._stop.set()

    # -- passes -------------------------------------------------------------------------------------------------------

    def _pass_after_pass(self) -> None:
        failures, said = 0, ""
        while not self._stopping:
            while not self._wakeups.empty():  # whatever woke us until now, this pass will see
                self._wakeups.get()
            try:
                wanted_in = self._run_pass()
            except RegistryError as error:
                failures += 1
                pause, settle = self._pause_after(failures), FAILED_SETTLE_S
                # A fault that lasts is told once: repeating it would bury what else happens.
                level = logging.DEBUG if str(error) == said else logging.WARNING
                facts = {"event": "pass_failed", "reason": str(error), "retry_in_s": round(pause, 1)}
                logger.log(level, "pass failed", extra=facts)
                said = str(error)
            else:
                if failures:
                    logger.info("all is well again", extra={"event": "recovered"})
                failures, said = 0, ""
                pause, settle = self._pause(wanted_in), SETTLE_S
            self._on_schedule(pause)
            self._wait(pause, settle=settle)

    def _pause(self, wanted_in: float | None) -> float:
        pause = self._every_s * (1 + SPREAD * (2 * self._random_share() - 1))
        return pause if wanted_in is None else min(pause, max(wanted_in, 0.0))

    def _pause_after(self, failures: int) -> float:
        return min(LONGEST_BACKOFF_S, 2.0 ** min(failures, 16) / 2) * (0.5 + self._random_share() / 2)

    def _wait(self, pause: float, *, settle: float) -> None:
        """`pause` seconds, or until something wakes it: at once, but not before `settle` seconds have passed."""
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

        def read(index: int, wait_s: float) -> Reply[str]:
            return self._api.text(*path, index=index, wait_s=wait_s)

        def say(error: RegistryError, _pause: float) -> None:
            nonlocal failing
            logger.debug("watch failed", extra={"event": "watch_failed", "watch": path[-1], "reason": str(error)})
            if not failing:
                self.wake()  # that Consul is away is news too: the pass that fails says so to people
            failing = True

        for reply in watch(read, stop=self._stop, on_error=say, wait_s=BLOCK_S):
            failing = False
            logger.debug("%s changed", path[-1], extra={"event": "changed", "watch": path[-1], "index": reply.index})
            self.wake()

    def _feel_pulse(self) -> None:
        """Notices a Consul that hangs or has no leader, and one that is back, where nothing else would for long."""
        config = replace(self._api.config, connect_timeout=PULSE_TIMEOUT_S, read_timeout=PULSE_TIMEOUT_S)
        api = ConsulApi(config)
        was_alive, told_at = True, -ALIVE_EVERY_S
        try:
            while not self._stop.wait(self._pulse_s):
                alive = _is_alive(api)
                if alive is not was_alive:
                    logger.debug("pulse", extra={"event": "pulse", "alive": alive})
                    self.wake()
                was_alive = alive
                if alive and time.monotonic() - told_at >= ALIVE_EVERY_S:
                    told_at = time.monotonic()
                    self._on_alive()
        finally:
            api.close()


def _is_alive(api: ConsulApi) -> bool:
    try:
        return bool(api.leader())
    except RegistryError:
        return False
