"""The loop behind `sync_registry --watch`: a pass whenever Consul changes, and every so often in any case."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from registry_admin.consul.api import ConsulApi, Reply
from registry_admin.consul.watch import watch
from registry_admin.errors import RegistryError

logger = logging.getLogger(__name__)

DEBOUNCE_S = 0.1
LONGEST_BACKOFF_S = 30.0


class Watcher:
    """Calls `run_pass` until stopped. A wake-up only says "look": the pass itself always reads both sides whole."""

    def __init__(self, api: ConsulApi, run_pass: Callable[[], object], *, every_s: float = 30.0) -> None:
        self._api = api
        self._run_pass = run_pass
        self._every_s = every_s
        self._wake = threading.Event()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends `run` after the pass that is under way. May be called from a signal handler."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Passes, one after another, until `stop` is called. A pass that fails is repeated with growing pauses."""
        for name, read in (
            ("services", lambda index, wait: self._api.services(index=index, wait_s=wait)),
            ("health", lambda index, wait: self._api.health_states(index=index, wait_s=wait)),
        ):
            threading.Thread(target=self._wake_on, args=(name, read), name=f"watch-{name}", daemon=True).start()
        failures = 0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._run_pass()
                failures, pause = 0, self._every_s
            except RegistryError as error:
                failures = min(failures + 1, 16)
                pause = min(LONGEST_BACKOFF_S, 2.0**failures / 2) * (0.5 + random.random() / 2)  # noqa: S311 - jitter
                logger.warning("pass failed, next in %.1f s: %s", pause, error)
            self._wake.wait(pause)
            self._stop.wait(DEBOUNCE_S)

    def _wake_on(self, name: str, read: Callable[[int, float], Reply[object]]) -> None:
        def say(error: RegistryError, pause: float) -> None:
            logger.debug("watch of %s failed, next in %.1f s: %s", name, pause, error)

        for reply in watch(read, stop=self._stop, on_error=say):
            logger.debug("%s changed (index %d)", name, reply.index)
            self._wake.set()
