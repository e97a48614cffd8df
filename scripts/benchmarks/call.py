"""`scripts/bench call`: cost of a call by name, compared with the plain request that it replaces."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from statistics import median
from types import SimpleNamespace
from typing import Any

import aiohttp
import requests
import urllib3

from registry_admin.consul import CheckKind, CheckSpec, ConsulConfig, Health, ServiceInstance, ServiceRegistry
from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient
from registry_admin.discovery.instances.load_balancing import InstanceGroup, PowerOfTwo
from registry_admin.discovery.instances.outlier_detection import Endpoint, OutlierDetector
from scripts.benchmarks.figures import Figure
from scripts.benchmarks.parts import Parts, on_core
from scripts.embedded_postgres import free_port
from scripts.run_everything.processes import Process
from scripts.run_everything.settings import HOST

SERVICE = "echo"
AT_ONCE = 50
THREADS = 8
PICKS = 20_000
_WITHIN_S = 20.0  # for an instance to answer


def measure(parts: Parts, *, quick: bool) -> list[Figure]:
    """Returns all figures; takes about a minute."""
    rounds, seconds = (15, 0.05) if quick else (60, 0.1)  # short, so that a busy machine slows all of them alike
    parts.use_postgres()  # Consul is started as scripts/run does it, with everything that it passes on
    parts.empty_consul()
    url, other = start_echo(parts, "echo-1"), start_echo(parts, "echo-2")
    registry = ServiceRegistry(config=ConsulConfig(host=HOST, port=parts.port))
    register(registry, url)
    register(registry, other)
    figures = synchronous(parts, registry, url, rounds, seconds)
    figures += asyncio.run(asynchronous(parts, registry, url, rounds, seconds))
    return [*figures, *bookkeeping(registry), *picking()]


def start_echo(parts: Parts, name: str) -> str:
    """Starts an instance on the server's core and returns its URL."""
    port = free_port()
    with on_core(0):
        command = [sys.executable, "-m", "scripts.benchmarks.echo", str(port)]
        parts.processes.start(Process(name, command, parts.settings.logs / f"{name}.log", parts.settings.inherited))

    def is_ready() -> bool:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection(HOST, port)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        return False

    parts.processes.wait_until(is_ready, f"{name} to answer")
    return f"http://{HOST}:{port}"


def register(registry: ServiceRegistry, url: str) -> str:
    """Registers the instance at `url` as passing, without a check, and returns its ID."""
    return registry.register_service(SERVICE, HOST, int(url.rpartition(":")[2]), check=CheckSpec(kind=CheckKind.NONE))


def synchronous(parts: Parts, registry: ServiceRegistry, url: str, rounds: int, seconds: float) -> list[Figure]:
    """Measures synchronous calls, one after another and from eight threads."""
    parts.say("Calling synchronously")
    pool = urllib3.PoolManager(maxsize=64)
    kept_alive = http.client.HTTPConnection(HOST, int(url.rpartition(":")[2]))
    with requests.Session() as session, SyncServiceDiscoveryClient(registry) as client:

        def get_over_http_client() -> object:
            kept_alive.request("GET", "/x")
            return json.loads(kept_alive.getresponse().read())

        def look_up_and_get() -> None:
            instance = random.choice(registry.discover_service(SERVICE))  # noqa: S311 - spreads load
            session.get(f"{instance.url}/x").json()

        calls: dict[str, Callable[[], object]] = {
            "session": lambda: session.get(f"{url}/x").json(),
            "http.client": get_over_http_client,
            "urllib3": lambda: pool.request("GET", f"{url}/x").json(),
            "lookup": look_up_and_get,
            "client": lambda: client.call_service(SERVICE, "/x").json(),
        }
        costs: dict[str, list[float]] = {name: [] for name in calls}
        rates: dict[str, list[float]] = {"urllib3": [], "client": []}
        cpus: dict[str, list[float]] = {"http.client": [], "client": []}
        for _ in range(rounds):
            for name, call in calls.items():
                costs[name].append(microseconds(call, seconds))
            for name, values in rates.items():
                values.append(from_threads(calls[name], seconds))
            for name, values in cpus.items():
                values.append(cpu_microseconds(calls[name], seconds))
    cost = {name: median(values) for name, values in costs.items()}
    rate = {name: median(values) for name, values in rates.items()}
    cpu = {name: min(values) for name, values in cpus.items()}
    return [
        figure("call_service, beside requests.Session", cost["client"], cost["session"], "µs"),
        figure("call_service, beside urllib3", cost["client"], cost["urllib3"], "µs", goal=0.6),
        figure("call_service, beside http.client", cost["client"], cost["http.client"], "µs", goal=1),
        figure("a Consul lookup on each call, beside Session", cost["lookup"], cost["session"], "µs"),
        figure("calls a second, one after another", 1e6 / cost["client"], 1e6 / cost["session"], "/s", at_least=True),
        figure("CPU of call_service, beside http.client", cpu["client"], cpu["http.client"], "µs", goal=1),
        figure(f"{THREADS} threads, beside urllib3", rate["client"], rate["urllib3"], "/s", goal=0.9, at_least=True),
    ]


async def asynchronous(parts: Parts, registry: ServiceRegistry, url: str, rounds: int, seconds: float) -> list[Figure]:
    """Measures asynchronous calls, one after another and fifty at once."""
    parts.say("Calling asynchronously")
    async with aiohttp.ClientSession() as session, ServiceDiscoveryClient(registry) as client:

        async def plain() -> None:
            async with session.get(f"{url}/x") as reply:
                await reply.json()

        async def by_name() -> None:
            (await client.call_service(SERVICE, "/x")).json()

        costs: dict[str, list[float]] = {"plain": [], "client": []}
        rates: dict[str, list[float]] = {"plain": [], "client": []}
        cpus: dict[str, list[float]] = {"plain": [], "client": []}
        for _ in range(rounds):
            for name, call in (("plain", plain), ("client", by_name)):
                costs[name].append(await microseconds_async(call, seconds))
                rates[name].append(await at_once(call, seconds))
                cpus[name].append(await cpu_at_once(call, seconds))
    cost = {name: median(values) for name, values in costs.items()}
    rate = {name: median(values) for name, values in rates.items()}
    cpu = {name: min(values) for name, values in cpus.items()}
    return [
        figure("ServiceDiscoveryClient, beside aiohttp", cost["client"], cost["plain"], "µs", goal=0.65),
        figure(f"{AT_ONCE} at once, beside aiohttp", rate["client"], rate["plain"], "/s", goal=2, at_least=True),
        figure(f"CPU of a call, {AT_ONCE} at once, beside aiohttp", cpu["client"], cpu["plain"], "µs", goal=0.5),
    ]


def figure(
    name: str, value: float, floor: float, unit: str, *, goal: float | None = None, at_least: bool = False
) -> Figure:
    """Returns a figure with its floor, which was measured in the same run."""
    return Figure(name=name, value=value, floor=floor, unit=unit, goal=goal, at_least=at_least)


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """Returns the median duration in microseconds of calls made one after another for `seconds`."""
    for _ in range(5):
        call()
    durations, end = [], time.perf_counter() + seconds
    while (started_at := time.perf_counter()) < end:
        call()
        durations.append(time.perf_counter() - started_at)
    return median(durations or [seconds]) * 1e6


def cpu_microseconds(call: Callable[[], object], seconds: float) -> float:
    """Returns the mean CPU time in microseconds of calls made for `seconds`. The best of several is a quiet one."""
    count, started_at, end = 0, time.thread_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        call()
        count += 1
    return (time.thread_time() - started_at) / count * 1e6


async def cpu_at_once(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Returns the same with AT_ONCE calls under way, the event loop's own work included."""
    started_at = time.thread_time()
    rate = await at_once(call, seconds)
    return (time.thread_time() - started_at) / (rate * seconds) * 1e6


async def microseconds_async(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Returns the median duration in microseconds, like `microseconds`, on an event loop."""
    for _ in range(5):
        await call()
    durations, end = [], time.perf_counter() + seconds
    while (started_at := time.perf_counter()) < end:
        await call()
        durations.append(time.perf_counter() - started_at)
    return median(durations or [seconds]) * 1e6


def from_threads(call: Callable[[], object], seconds: float) -> float:
    """Returns the number of calls a second of all threads together."""
    counts = [0] * THREADS
    end = time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < end:
            call()
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


async def at_once(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Returns the calls a second, with AT_ONCE calls under way all the time."""
    count, end = 0, time.perf_counter() + seconds

    async def run() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await call()
            count += 1

    await asyncio.gather(*(run() for _ in range(AT_ONCE)))
    return count / seconds


class InstantExchange:
    """An exchange whose response arrives at once."""

    connection = None

    def read_response(self) -> SimpleNamespace:
        """Returns an empty response."""
        return SimpleNamespace(status_code=200, headers={})


def bookkeeping(registry: ServiceRegistry) -> list[Figure]:
    """Measures a call without the time that its request takes on the network."""
    client = SyncServiceDiscoveryClient(registry)
    client.call_service(SERVICE, "/x")
    exchange = InstantExchange()
    client._transport.start = lambda *_args, **_options: exchange  # type: ignore[method-assign,assignment]  # noqa: SLF001
    value = min(cpu_microseconds(lambda: client.call_service(SERVICE, "/x"), 0.1) for _ in range(20))
    return [Figure(name="own bookkeeping of a call", value=value, unit="µs", goal=15)]


def picking() -> list[Figure]:
    """Measures the load balancing among few and among many endpoints."""
    return [
        Figure(name=f"picking among {count:,}", value=pick_microseconds(count), unit="µs", goal=1)
        for count in (10, 100, 1000)
    ]


def pick_microseconds(count: int) -> float:
    """Returns the mean CPU time of a pick in the best of five rounds; one pick is too short for a clock."""
    outlier_detector, now = OutlierDetector(), time.monotonic()
    endpoints = [Endpoint(instance(number), outlier_detector, now=now, warm=True) for number in range(count)]
    outlier_detector.set_endpoints(endpoints)
    group, balancing = InstanceGroup(endpoints), PowerOfTwo()
    tried: tuple[Any, ...] = ()
    rounds = []
    for _ in range(5):
        started_at = time.thread_time()
        for _ in range(PICKS):
            balancing.pick(group, tried=tried, now=now, repeatable=True)
        rounds.append(time.thread_time() - started_at)
    return min(rounds) / PICKS * 1e6


def instance(number: int) -> ServiceInstance:
    """Returns an instance with this number in its ID and port."""
    return ServiceInstance(
        service=SERVICE, id=f"{SERVICE}-{number}", address="10.0.0.1", port=1 + number, health=Health.PASSING
    )
