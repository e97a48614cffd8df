"""`scripts/bench failover`: calls to three instances under load while one of them, or Consul, fails."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

import requests

from registry_admin.consul import ConsulConfig, ServiceRegistry
from registry_admin.discovery import SyncServiceDiscoveryClient
from registry_admin.errors import RegistryError
from scripts.benchmarks.call import SERVICE, register, start_echo
from scripts.benchmarks.figures import Figure
from scripts.benchmarks.parts import Parts
from scripts.run_everything.settings import HOST

RATE = 200  # calls a second
TIMEOUT_S = 2.0
SETTLING_S = 1.0  # after a fault
SLOW_MS = 500
_WORKERS = 256  # as many calls as may wait for a frozen instance, so that the load stays even
_trial_numbers = itertools.count()

Call = Callable[[], str]  # makes a call and returns the base URL of the instance that answered


@dataclass(frozen=True)
class CallResult:
    """Start and duration of a call, in seconds, and the base URL of the instance that answered, or ""."""

    started_at: float
    duration_s: float
    url: str


def measure(parts: Parts, *, quick: bool) -> list[Figure]:
    """Returns all figures; takes some two minutes, half of them with Consul away."""
    before_s, after_s, away_s = (0.5, 2.0, 3.0) if quick else (2.0, 6.0, 60.0)
    parts.use_postgres()
    figures = []
    for fault in ("killed", "frozen", "slow"):
        for name in ("round robin", "by name"):
            parts.say(f"One of three instances {fault}: {name}")
            figures += instance_fails(parts, fault, name, before_s, after_s)
    parts.say(f"Consul away for {away_s:g} s")
    return [*figures, *consul_away(parts, before_s, away_s), *all_down(parts)]


class Trial:
    """Three instances, registered in an otherwise empty Consul."""

    def __init__(self, parts: Parts) -> None:
        parts.empty_consul()
        self._parts = parts
        self.urls = [start_echo(parts, f"echo-{number}") for number in range(3)]
        # Another configuration each time, so that no cache of an earlier trial is used.
        config = ConsulConfig(host=HOST, port=parts.port, read_timeout=10.0 + next(_trial_numbers))
        self.registry = ServiceRegistry(config=config)
        for url in self.urls:
            register(self.registry, url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for number in range(3):
            name = f"echo-{number}"
            process = self._parts.processes.all.get(name)
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
            self._parts.processes.end(name)
            self._parts.processes.all.pop(name, None)

    def inject_fault(self, fault: str) -> None:
        """Kills, freezes or slows down the first instance."""
        pid = self._parts.processes.all["echo-0"].pid
        if fault == "killed":
            os.kill(pid, signal.SIGKILL)
        elif fault == "frozen":
            os.kill(pid, signal.SIGSTOP)
        else:
            host, _, port = self.urls[0].removeprefix("http://").partition(":")
            with contextlib.closing(http.client.HTTPConnection(host, int(port))) as connection:
                connection.request("GET", f"/delay/{SLOW_MS}")
                connection.getresponse().read()

    def by_name(self, client: SyncServiceDiscoveryClient) -> Call:
        """Returns a call by name."""
        return lambda: client.call_service(SERVICE, "/x", timeout=TIMEOUT_S).url.rpartition("/")[0]

    def round_robin(self, on_attempt: Callable[[float, str], object]) -> Call:
        """Returns a call to the instances in turn, without ejection and without retries."""
        turn, sessions = itertools.count(), threading.local()

        def call() -> str:
            url = self.urls[next(turn) % len(self.urls)]
            if not hasattr(sessions, "session"):
                sessions.session = requests.Session()
            on_attempt(time.monotonic(), url)
            sessions.session.get(f"{url}/x", timeout=TIMEOUT_S).raise_for_status()
            return url

        return call


def load(
    call: Call, seconds: float, action: Callable[[], Any] | None = None, *, after_s: float = 0.0
) -> list[CallResult]:
    """Calls at an even rate, without waiting for earlier calls; runs `action` after `after_s` seconds."""
    results: list[CallResult] = []

    def run() -> None:
        started_at = time.monotonic()
        try:
            url = call()
        except (RegistryError, requests.RequestException):
            url = ""
        results.append(CallResult(started_at, time.monotonic() - started_at, url))

    with ThreadPoolExecutor(_WORKERS) as pool:
        start = time.monotonic()
        for number in range(int(seconds * RATE)):
            if action is not None and number >= after_s * RATE:
                action()
                action = None
            time.sleep(max(0.0, start + number / RATE - time.monotonic()))
            pool.submit(run)
    return results


def instance_fails(parts: Parts, fault: str, name: str, before_s: float, after_s: float) -> list[Figure]:
    """Returns the lost calls, the slowest one, and the share sent to the failing instance after a second."""
    attempts: list[tuple[float, str]] = []
    with Trial(parts) as trial:
        client = SyncServiceDiscoveryClient(
            trial.registry,
            on_attempt=lambda attempt: attempts.append((time.monotonic() - attempt.duration, attempt.url)),
        )
        failed_at: list[float] = []

        def inject_fault() -> None:
            failed_at.append(time.monotonic())
            trial.inject_fault(fault)

        if name == "by name":
            call = trial.by_name(client)
        else:
            call = trial.round_robin(lambda at, url: attempts.append((at, url)))
        results = load(call, before_s + after_s, inject_fault, after_s=before_s)
        client.close()
    failing, settled_at = trial.urls[0], failed_at[0] + SETTLING_S
    lost = sum(not result.url for result in results)
    late = [url == failing for at, url in attempts if at > settled_at]
    goal = 0.0 if name == "by name" else None
    return [
        Figure(name=f"{fault}, {name}: lost of {len(results)}", value=lost, unit="calls", goal=goal),
        Figure(
            name=f"{fault}, {name}: slowest call", value=max(result.duration_s for result in results) * 1000, unit="ms"
        ),
        Figure(name=f"{fault}, {name}: sent to it after 1 s", value=100 * sum(late) / max(1, len(late)), unit="%"),
    ]


def consul_away(parts: Parts, before_s: float, away_s: float) -> list[Figure]:
    """Returns the lost calls, and the median duration compared with that while Consul is up."""
    with Trial(parts) as trial, SyncServiceDiscoveryClient(trial.registry) as client:
        up = load(trial.by_name(client), before_s * 2)
        away = load(trial.by_name(client), away_s, lambda: parts.processes.end("consul"))
    return [
        Figure(
            name=f"Consul away: lost of {len(away)}",
            value=sum(not result.url for result in away),
            unit="calls",
            goal=0.0,
        ),
        Figure(
            name="Consul away: median, beside Consul there",
            value=median(result.duration_s for result in away) * 1e6,
            floor=median(result.duration_s for result in up) * 1e6,
            unit="µs",
        ),
    ]


def all_down(parts: Parts, calls: int = 500) -> list[Figure]:
    """Returns the attempts that are sent while no instance answers."""
    attempts: list[str] = []
    with Trial(parts) as trial:
        client = SyncServiceDiscoveryClient(trial.registry, on_attempt=lambda attempt: attempts.append(attempt.url))
        call = trial.by_name(client)
        call()
        for number in range(3):
            os.kill(parts.processes.all[f"echo-{number}"].pid, signal.SIGKILL)
        attempts.clear()
        results = load(call, calls / RATE)
        client.close()
    return [
        Figure(
            name=f"all down: answered of {len(results)}",
            value=sum(bool(result.url) for result in results),
            unit="calls",
        ),
        Figure(name="all down: attempts for each call", value=len(attempts) / len(results), unit="", goal=1.3),
        Figure(name="all down: slowest failure", value=max(result.duration_s for result in results) * 1000, unit="ms"),
    ]
