"""`scripts/bench failover`: three instances under load, and what becomes of calls when one, or Consul, fails."""

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
SETTLED_S = 1.0  # after a fault
SLOW_MS = 500
_WORKERS = 256  # as many calls as may wait for a frozen instance, so that the load stays even
_trials = itertools.count()

Way = Callable[[], str]  # makes a call and returns the root URL of who answered


@dataclass(frozen=True)
class Made:
    """A call: when it began and how long it took, in seconds, and who answered, or nothing."""

    at: float
    took: float
    by: str


def measure(parts: Parts, *, quick: bool) -> list[Figure]:
    """All of it: some two minutes, half of them with Consul away."""
    before_s, after_s, away_s = (0.5, 2.0, 3.0) if quick else (2.0, 6.0, 60.0)
    parts.use_postgres()
    figures = []
    for fault in ("killed", "frozen", "slow"):
        for name in ("round robin", "ours"):
            parts.say(f"One of three instances {fault}: {name}")
            figures += one_fails(parts, fault, name, before_s, after_s)
    parts.say(f"Consul away for {away_s:g} s")
    return [*figures, *consul_away(parts, before_s, away_s), *all_down(parts)]


class Trial:
    """Three instances, registered in a Consul that holds nothing else."""

    def __init__(self, parts: Parts) -> None:
        parts.empty_consul()
        self._parts = parts
        self.urls = [start_echo(parts, f"echo-{number}") for number in range(3)]
        # Another configuration each time, so that nothing is known from the trial before.
        config = ConsulConfig(host=HOST, port=parts.port, read_timeout=10.0 + next(_trials))
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

    def harm(self, fault: str) -> str:
        """The first instance; returns its URL."""
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
        return self.urls[0]

    def ours(self, client: SyncServiceDiscoveryClient) -> Way:
        """A call by name."""
        return lambda: client.call_service(SERVICE, "/x", timeout=TIMEOUT_S).url.rpartition("/")[0]

    def round_robin(self, on_attempt: Callable[[float, str], object]) -> Way:
        """What a cached list, taken in turns, makes of it: no ejection, no second try."""
        turn, sessions = itertools.count(), threading.local()

        def call() -> str:
            url = self.urls[next(turn) % len(self.urls)]
            if not hasattr(sessions, "own"):
                sessions.own = requests.Session()
            on_attempt(time.monotonic(), url)
            sessions.own.get(f"{url}/x", timeout=TIMEOUT_S).raise_for_status()
            return url

        return call


def load(way: Way, seconds: float, then: Callable[[], Any] | None = None, *, after_s: float = 0.0) -> list[Made]:
    """Calls at an even rate, whatever becomes of those before; `then` is done when `after_s` have passed."""
    made: list[Made] = []

    def call() -> None:
        began = time.monotonic()
        try:
            by = way()
        except (RegistryError, requests.RequestException):
            by = ""
        made.append(Made(began, time.monotonic() - began, by))

    with ThreadPoolExecutor(_WORKERS) as pool:
        start = time.monotonic()
        for number in range(int(seconds * RATE)):
            if then is not None and number >= after_s * RATE:
                then()
                then = None
            time.sleep(max(0.0, start + number / RATE - time.monotonic()))
            pool.submit(call)
    return made


def one_fails(parts: Parts, fault: str, name: str, before_s: float, after_s: float) -> list[Figure]:
    """Lost calls, the slowest, and how many still went to the bad one a second later."""
    attempts: list[tuple[float, str]] = []
    with Trial(parts) as trial:
        client = SyncServiceDiscoveryClient(
            trial.registry,
            on_attempt=lambda attempt: attempts.append((time.monotonic() - attempt.duration, attempt.url)),
        )
        harmed: list[float] = []

        def harm() -> None:
            harmed.append(time.monotonic())
            trial.harm(fault)

        way = trial.ours(client) if name == "ours" else trial.round_robin(lambda at, url: attempts.append((at, url)))
        made = load(way, before_s + after_s, harm, after_s=before_s)
        client.close()
    bad, settled = trial.urls[0], harmed[0] + SETTLED_S
    lost = sum(not call.by for call in made)
    late = [url == bad for at, url in attempts if at > settled]
    goal = 0.0 if name == "ours" else None
    return [
        Figure(name=f"{fault}, {name}: lost of {len(made)}", value=lost, unit="calls", goal=goal),
        Figure(name=f"{fault}, {name}: slowest call", value=max(call.took for call in made) * 1000, unit="ms"),
        Figure(name=f"{fault}, {name}: sent to it after 1 s", value=100 * sum(late) / max(1, len(late)), unit="%"),
    ]


def consul_away(parts: Parts, before_s: float, away_s: float) -> list[Figure]:
    """Lost calls, and the median beside that with Consul there."""
    with Trial(parts) as trial, SyncServiceDiscoveryClient(trial.registry) as client:
        there = load(trial.ours(client), before_s * 2)
        away = load(trial.ours(client), away_s, lambda: parts.processes.end("consul"))
    return [
        Figure(
            name=f"Consul away: lost of {len(away)}", value=sum(not call.by for call in away), unit="calls", goal=0.0
        ),
        Figure(
            name="Consul away: median, beside Consul there",
            value=median(call.took for call in away) * 1e6,
            floor=median(call.took for call in there) * 1e6,
            unit="µs",
        ),
    ]


def all_down(parts: Parts, calls: int = 500) -> list[Figure]:
    """Attempts that are sent when nothing answers."""
    attempts: list[str] = []
    with Trial(parts) as trial:
        client = SyncServiceDiscoveryClient(trial.registry, on_attempt=lambda attempt: attempts.append(attempt.url))
        way = trial.ours(client)
        way()
        for number in range(3):
            os.kill(parts.processes.all[f"echo-{number}"].pid, signal.SIGKILL)
        attempts.clear()
        made = load(way, calls / RATE)
        client.close()
    return [
        Figure(name=f"all down: answered of {len(made)}", value=sum(bool(call.by) for call in made), unit="calls"),
        Figure(name="all down: attempts for each call", value=len(attempts) / len(made), unit="", goal=1.3),
        Figure(name="all down: slowest failure", value=max(call.took for call in made) * 1000, unit="ms"),
    ]
