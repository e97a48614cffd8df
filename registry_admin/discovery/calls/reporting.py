"""Reports who calls whom to Registry Admin's map: counts calls, and sends the totals from a background thread.

Needs REGISTRY_REPORT_TOKEN (or REGISTRY_REPORT_TOKEN_FILE) and a name of this process: SERVICE_NAME, or the one that it
registers itself under. A call costs one addition under a lock. No error of a report reaches a call; while Registry
Admin is away, the totals of at most MAX_SERVICES services stay in memory.
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
from typing import Any, Protocol

import requests

from registry_admin.backoff import ExponentialBackoff, spread
from registry_admin.discovery.calls.policy import RecordCall
from registry_admin.discovery.process_name import current_process_name
from registry_admin.errors import RegistryError

logger = logging.getLogger(__name__)

PATH = "/api/calls"
FIRST_REPORT_S, REPORT_INTERVAL_S = 2.0, 10.0
BACKOFF = ExponentialBackoff(first_s=REPORT_INTERVAL_S, longest_s=300.0)
JITTER = 0.2  # share of each pause
SEND_TIMEOUT_S, FINAL_SEND_TIMEOUT_S = 5.0, 1.0
MAX_SERVICES = 500

SendReport = Callable[[dict[str, Any], float], None]  # the body and a timeout in seconds; raises if it didn't arrive


class ReportClient(Protocol):
    """The part of a client that sends reports. It must not report its own calls."""

    def post(
        self, service: str, path: str, *, json: Any, timeout: float | None, headers: Mapping[str, str]
    ) -> requests.Response:
        """Calls `service` with POST."""


@dataclass
class CallTotals:
    """Calls of one service: their number, the number that failed, and the time that they took."""

    calls: int = 0
    failures: int = 0
    milliseconds: float = 0.0
    slowest_ms: float = 0.0

    def add(self, other: CallTotals) -> None:
        """Adds the calls of `other`."""
        self.calls += other.calls
        self.failures += other.failures
        self.milliseconds += other.milliseconds
        self.slowest_ms = max(self.slowest_ms, other.slowest_ms)


@dataclass
class CallReporter:
    """Counts calls by service, and sends the totals from a thread that starts with the first call."""

    send: SendReport
    caller_name: Callable[[], str]
    totals: dict[str, CallTotals] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def record(self, service: str, seconds: float, failed: bool) -> None:  # noqa: FBT001 - runs with every call
        """Counts a call."""
        milliseconds = seconds * 1000
        with self._lock:
            totals = self.totals.get(service)
            if totals is None:
                if len(self.totals) >= MAX_SERVICES:
                    return
                totals = self.totals[service] = CallTotals()
            totals.calls += 1
            totals.failures += failed
            totals.milliseconds += milliseconds
            totals.slowest_ms = max(totals.slowest_ms, milliseconds)
        if self._thread is None:
            self._start_thread()

    def flush(self, timeout_s: float = SEND_TIMEOUT_S) -> bool:
        """Sends the totals. Returns False where they didn't arrive; they are then sent with the next ones."""
        caller = self.caller_name()
        with self._lock:
            if not caller or not self.totals:
                return True
            unsent, self.totals = self.totals, {}
        try:
            self.send(_report_body(caller, unsent), timeout_s)
        except (RegistryError, OSError, ValueError) as error:
            logger.debug("calls could not be reported: %s", error)
            with self._lock:
                for service, totals in unsent.items():
                    if service in self.totals:
                        self.totals[service].add(totals)
                    elif len(self.totals) < MAX_SERVICES:
                        self.totals[service] = totals
            return False
        return True

    def close(self) -> None:
        """Stops the thread and sends the last totals, within FINAL_SEND_TIMEOUT_S."""
        self._closed.set()
        self.flush(FINAL_SEND_TIMEOUT_S)

    def after_fork(self) -> None:
        """Clears the totals in a child process: the parent reports them."""
        self.__post_init__()
        self.totals = {}

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="registry-call-reports", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause_s, failures = FIRST_REPORT_S, 0
        while not self._closed.wait(spread(pause_s, JITTER, random.random())):  # noqa: S311
            failures = 0 if self.flush() else failures + 1
            pause_s = BACKOFF.pause_s(failures) if failures else REPORT_INTERVAL_S


def _report_body(caller: str, totals_by_service: Mapping[str, CallTotals]) -> dict[str, Any]:
    calls = [
        {
            "called": service,
            "calls": totals.calls,
            "failures": totals.failures,
            "milliseconds": round(totals.milliseconds, 3),
            "slowest_ms": round(totals.slowest_ms, 3),
        }
        for service, totals in sorted(totals_by_service.items())
    ]
    return {"caller": caller, "calls": calls}


def call_recorder(make_client: Callable[[], ReportClient]) -> RecordCall | None:
    """Returns the function that counts this process's calls, or None without a token.

    `make_client` makes the client that sends the reports, when the first one is due.
    """
    reporter = process_reporter(make_client)
    return reporter.record if reporter is not None else None


@functools.cache
def process_reporter(make_client: Callable[[], ReportClient]) -> CallReporter | None:
    """Returns the process's reporter, which sends its last report when the process ends, or None without a token."""
    token = _read_token()
    if not token:
        return None
    reporter = CallReporter(send=_report_sender(make_client, token), caller_name=current_process_name)
    atexit.register(reporter.close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reporter.after_fork)
    return reporter


def _read_token() -> str:
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


def _report_sender(make_client: Callable[[], ReportClient], token: str) -> SendReport:
    client = functools.cache(make_client)
    service = os.environ.get("REGISTRY_REPORT_SERVICE", "registry-admin")

    def send(body: dict[str, Any], timeout_s: float) -> None:
        response = client().post(
            service, PATH, json=body, timeout=timeout_s, headers={"Authorization": f"Bearer {token}"}
        )
        if response.status_code >= 300:
            raise ValueError(f"{service} answered {response.status_code}")

    return send
