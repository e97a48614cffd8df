"""The loop behind `sync_registry --watch`: a pass whenever Consul changes, and every so often in any case."""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable

from registry_admin.consul.api import ConsulApi, Reply
from registry_admin.consul.watch import watch
from registry_admin.errors import RegistryError

logger = logging.getLogger(__name__)

DEBOUNCE_S = 0.1
FAILED_DEBOUNCE_S = 1.0  # Consul may change all the time while, say, the database is away
LONGEST_BACKOFF_S = 30.0


class Watcher:
    """Calls `run_pass` until stopped. A wake-up only says "look": the pass itself always reads both sides whole."""

    def __init__(self, api: ConsulApi, run_pass: Callable[[], object], *, every_s: float = 30.0) -> None:
        self._api = api
        self._run_pass = run_pass
        self._every_s = every_s
        # An Event or a Lock taken in a signal handler could wait for ever for the very thread that it interrupted.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends `run` after the pass that is under way. May be called from a signal handler."""
        self._stopping = True
        self._wakeups.put(None)

    def run(self) -> None:
        """Passes, one after another, until `stop` is called. A pass that fails is repeated with growing pauses."""
        for name, read in (
            ("services", lambda index, wait: self._api.services(index=index, wait_s=wait)),
            ("health", lambda index, wait: self._api.health_states(index=index, wait_s=wait)),
        ):
            threading.Thread(target=self._wake_on, args=(name, read), name=f"watch-{name}", daemon=True).start()
        try:
            self._pass_after_pass()
        finally:
            self._stop.set()

    def _pass_after_pass(self) -> None:
        failures, said = 0, ""
        while not self._stopping:
            try:
                self._run_pass()
                if failures:
                    logger.info("all is well again")
                failures, said, pause = 0, "", self._every_s
            except RegistryError as error:
                failures = min(failures + 1, 16)
                pause = min(LONGEST_BACKOFF_S, 2.0**failures / 2) * (0.5 + random.random() / 2)  # noqa: S311 - jitter
                # A fault that lasts is told once: repeating it would bury what else happens.
                logger.log(logging.DEBUG if str(error) == said else logging.WARNING, "pass failed: %s", error)
                said = str(error)
            self._wait(pause, settle=FAILED_DEBOUNCE_S if failures else DEBOUNCE_S)

    def _wait(self, pause: float, *, settle: float) -> None:
        """Until something has changed, at most `pause` seconds; all that changes within `settle` is one wake-up."""
        try:
            self._wakeups.get(timeout=pause)
        except queue.Empty:
            return
        if not self._stopping:
            self._stop.wait(settle)
        while not self._wakeups.empty():
            self._wakeups.get()

    def _wake_on(self, name: str, read: Callable[[int, float], Reply[object]]) -> None:
        def say(error: RegistryError, pause: float) -> None:
            logger.debug("watch of %s failed, next in %.1f s: %s", name, pause, error)
            self._wakeups.put(None)  # that Consul is away is news too: the pass that fails says so to people

        for reply in watch(read, stop=self._stop, on_error=say):
            logger.debug("%s changed (index %d)", name, reply.index)
            self._wakeups.put(None)
