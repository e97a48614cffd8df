"""Tells Registry Admin who calls whom, so that it can draw a map: counted here, sent now and then in the background.

Only where REGISTRY_REPORT_TOKEN (or a file that REGISTRY_REPORT_TOKEN_FILE names) is set, and this process has a name:
SERVICE_NAME, or the one that it registers itself under. A call costs one addition under a lock. Nothing of this is ever
raised into a call, and Registry Admin's absence costs nothing but memory for at most 500 pairs.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry_admin.errors import RegistryError

logger = logging.getLogger(__name__)

PATH = "/api/calls"
FIRST_S, EVERY_S, LONGEST_S = 2.0, 10.0, 300.0
PATIENCE_S, LAST_PATIENCE_S = 5.0, 1.0
MOST_PAIRS = 500

Count = Callable[[str, float, bool], None]  # of a call: the called service, seconds, and whether it failed
Send = Callable[[dict[str, Any], float], None]  # a report, within so many seconds; raises where it didn't arrive


@dataclass
class Tally:
    """The calls of one service: how many, how many of those failed, and how long they took."""

    calls: int = 0
    failures: int = 0
    milliseconds: float = 0.0
    slowest_ms: float = 0.0

    def add(self, other: Tally) -> None:
        """Both together."""
        self.calls += other.calls
        self.failures += other.failures
        self.milliseconds += other.milliseconds
        self.slowest_ms = max(self.slowest_ms, other.slowest_ms)


@dataclass
class Reporter:
    """Counts, and sends what it has counted from a thread that begins with the first call."""

    send: Send
    own_name: Callable[[], str]
    tallies: dict[str, Tally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def count(self, service: str, seconds: float, failed: bool) -> None:  # noqa: FBT001 - on every call's way
        """Notes a call."""
        milliseconds = seconds * 1000
        with self._lock:
            tally = self.tallies.get(service)
            if tally is None:
                if len(self.tallies) >= MOST_PAIRS:
                    return
                tally = self.tallies[service] = Tally()
            tally.calls += 1
            tally.failures += failed
            tally.milliseconds += milliseconds
            tally.slowest_ms = max(tally.slowest_ms, milliseconds)
        if self._thread is None:
            self._begin()

    def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Sends what there is; False where it didn't arrive: then it is kept for the next time."""
        caller = self.own_name()
        with self._lock:
            if not caller or not self.tallies:
                return True
            sending, self.tallies = self.tallies, {}
        try:
            self.send(_body(caller, sending), patience_s)
        except (RegistryError, OSError, ValueError) as error:
            logger.debug("calls could not be reported: %s", error)
            with self._lock:
                for service, tally in sending.items():
                    if service in self.tallies:
                        self.tallies[service].add(tally)
                    elif len(self.tallies) < MOST_PAIRS:
                        self.tallies[service] = tally
            return False
        return True

    def end(self) -> None:
        """One last report, within a second."""
        self._ended.set()
        self.flush(LAST_PATIENCE_S)

    def after_fork(self) -> None:
        """A child begins with nothing: its parent reports what it has counted itself."""
        self.__post_init__()
        self.tallies = {}

    def _begin(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._work, name="registry-call-reports", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        pause_s = FIRST_S
        while not self._ended.wait(pause_s * random.uniform(0.8, 1.2)):  # noqa: S311
            arrived = self.flush()
            pause_s = EVERY_S if arrived else min(LONGEST_S, max(EVERY_S, pause_s * 2))


def _body(caller: str, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    calls = [
        {
            "called": service,
            "calls": tally.calls,
            "failures": tally.failures,
            "milliseconds": round(tally.milliseconds, 3),
            "slowest_ms": round(tally.slowest_ms, 3),
        }
        for service, tally in sorted(tallies.items())
    ]
    return {"caller": caller, "calls": calls}


_known_as = ""


def known_as(name: str) -> None:
    """This process registers itself under this name."""
    global _known_as  # noqa: PLW0603
    _known_as = name


def counter() -> Count | None:
    """What counts the calls of this process, or None where they aren't to be reported."""
    reporter = process_reporter()
    return reporter.count if reporter is not None else None


@functools.cache
def process_reporter() -> Reporter | None:
    """The process's own, or None without a token."""
    token = _token()
    if not token:
        return None
    reporter = Reporter(send=_sender(token), own_name=lambda: os.environ.get("SERVICE_NAME", "") or _known_as)
    atexit.register(reporter.end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reporter.after_fork)
    return reporter


def _token() -> str:
    if token := os.environ.get("REGISTRY_REPORT_TOKEN", ""):
        return token
    path = os.environ.get("REGISTRY_REPORT_TOKEN_FILE", "")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        logger.warning("REGISTRY_REPORT_TOKEN_FILE can't be read, so calls aren't reported: %s", type(error).__name__)
        return ""


def _sender(token: str) -> Send:
    @functools.cache
    def client() -> Any:
        from registry_admin.discovery.client import SyncServiceDiscoveryClient  # noqa: PLC0415 - it imports us

        return SyncServiceDiscoveryClient(report_calls=False)

    service = os.environ.get("REGISTRY_REPORT_SERVICE", "registry-admin")

    def send(body: dict[str, Any], patience_s: float) -> None:
        reply = client().post(
            service, PATH, json=body, timeout=patience_s, headers={"Authorization": f"Bearer {token}"}
        )
        if reply.status_code >= 300:
            raise ValueError(f"{service} answered {reply.status_code}")

    return send
