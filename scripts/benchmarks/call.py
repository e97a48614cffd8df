"""`scripts/bench call`: what a call by name costs, beside the plain request that it replaces."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
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
from registry_admin.discovery.balancing import Group, PowerOfTwo
from registry_admin.discovery.endpoint import Endpoint, Outliers
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
    """All of it: about a minute."""
    rounds, seconds = (2, 0.2) if quick else (7, 0.8)
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
    """An instance on the server's core; returns its URL."""
    port = free_port()
    with on_core(0):
        command = [sys.executable, "-m", "scripts.benchmarks.echo", str(port)]
        parts.processes.start(Process(name, command, parts.settings.logs / f"{name}.log", parts.settings.inherited))

    def answers() -> bool:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection(HOST, port)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        return False

    parts.processes.wait_until(answers, f"{name} to answer")
    return f"http://{HOST}:{port}"


def register(registry: ServiceRegistry, url: str) -> str:
    """As an instance that passes without being asked."""
    return registry.register_service(SERVICE, HOST, int(url.rpartition(":")[2]), check=CheckSpec(kind=CheckKind.NONE))


def synchronous(parts: Parts, registry: ServiceRegistry, url: str, rounds: int, seconds: float) -> list[Figure]:
    """One after another, and from eight threads."""
    parts.say("Calling synchronously")
    pool = urllib3.PoolManager(maxsize=64)
    with requests.Session() as session, SyncServiceDiscoveryClient(registry) as client:

        def look_up_and_get() -> None:
            found = random.choice(registry.discover_service(SERVICE))  # noqa: S311 - spreads load
            session.get(f"{found.url}/x").json()

        ways: dict[str, Callable[[], object]] = {
            "session": lambda: session.get(f"{url}/x").json(),
            "urllib3": lambda: pool.request("GET", f"{url}/x").json(),
            "lookup": look_up_and_get,
            "ours": lambda: client.call_service(SERVICE, "/x").json(),
        }
        each: dict[str, list[float]] = {name: [] for name in ways}
        many: dict[str, list[float]] = {"urllib3": [], "ours": []}
        for _ in range(rounds):
            for name, way in ways.items():
                each[name].append(microseconds(way, seconds))
            for name, rates in many.items():
                rates.append(from_threads(ways[name], seconds))
    cost = {name: median(values) for name, values in each.items()}
    rate = {name: median(values) for name, values in many.items()}
    return [
        figure("call_service, beside requests.Session", cost["ours"], cost["session"], "µs", goal=0.6),
        figure("call_service, beside urllib3", cost["ours"], cost["urllib3"], "µs"),
        figure("a Consul lookup on each call, beside Session", cost["lookup"], cost["session"], "µs"),
        figure("calls a second, one after another", 1e6 / cost["ours"], 1e6 / cost["session"], "/s", at_least=True),
        figure(f"{THREADS} threads, beside urllib3", rate["ours"], rate["urllib3"], "/s", goal=0.9, at_least=True),
    ]


async def asynchronous(parts: Parts, registry: ServiceRegistry, url: str, rounds: int, seconds: float) -> list[Figure]:
    """One after another, and fifty at once."""
    parts.say("Calling asynchronously")
    async with aiohttp.ClientSession() as session, ServiceDiscoveryClient(registry) as client:

        async def plain() -> None:
            async with session.get(f"{url}/x") as reply:
                await reply.json()

        async def ours() -> None:
            (await client.call_service(SERVICE, "/x")).json()

        one: dict[str, list[float]] = {"plain": [], "ours": []}
        many: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(rounds):
            for name, way in (("plain", plain), ("ours", ours)):
                one[name].append(await microseconds_async(way, seconds))
                many[name].append(await at_once(way, seconds))
    cost = {name: median(values) for name, values in one.items()}
    rate = {name: median(values) for name, values in many.items()}
    return [
        figure("ServiceDiscoveryClient, beside aiohttp", cost["ours"], cost["plain"], "µs", goal=1.25),
        figure(f"{AT_ONCE} at once, beside aiohttp", rate["ours"], rate["plain"], "/s", goal=0.8, at_least=True),
    ]


def figure(
    name: str, value: float, floor: float, unit: str, *, goal: float | None = None, at_least: bool = False
) -> Figure:
    """Ours beside a floor of the same run."""
    return Figure(name=name, value=value, floor=floor, unit=unit, goal=goal, at_least=at_least)


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """The median of calls made one after another for so long."""
    taken, end = [], time.perf_counter() + seconds
    for _ in range(20):
        call()
    while (began := time.perf_counter()) < end:
        call()
        taken.append(time.perf_counter() - began)
    return median(taken) * 1e6


async def microseconds_async(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """The same on an event loop."""
    taken, end = [], time.perf_counter() + seconds
    for _ in range(20):
        await call()
    while (began := time.perf_counter()) < end:
        await call()
        taken.append(time.perf_counter() - began)
    return median(taken) * 1e6


def from_threads(call: Callable[[], object], seconds: float) -> float:
    """Calls a second, of all threads together."""
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
    """Calls a second, with so many under way all the time."""
    count, end = 0, time.perf_counter() + seconds

    async def run() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await call()
            count += 1

    await asyncio.gather(*(run() for _ in range(AT_ONCE)))
    return count / seconds


class Answered:
    """An exchange that is over."""

    connection = None

    def finish(self) -> SimpleNamespace:
        """A reply at once."""
        return SimpleNamespace(status_code=200, headers={})


def bookkeeping(registry: ServiceRegistry) -> list[Figure]:
    """A call whose sending takes no time at all."""
    client = SyncServiceDiscoveryClient(registry)
    client.call_service(SERVICE, "/x")
    answer = Answered()
    client._transport.start = lambda *_args, **_options: answer  # type: ignore[method-assign,assignment]  # noqa: SLF001
    taken = []
    for _ in range(PICKS):
        began = time.perf_counter()
        client.call_service(SERVICE, "/x")
        taken.append(time.perf_counter() - began)
    return [Figure(name="own bookkeeping of a call", value=median(taken) * 1e6, unit="µs", goal=25)]


def picking() -> list[Figure]:
    """Power of two choices, among few and among many."""
    return [
        Figure(name=f"picking among {count:,}", value=pick_microseconds(count), unit="µs", goal=1)
        for count in (10, 100, 1000)
    ]


def pick_microseconds(count: int) -> float:
    """Mean of many picks, the best of five rounds: a pick is too short for a clock."""
    outliers, now = Outliers(), time.monotonic()
    endpoints = [Endpoint(instance(number), outliers, now=now, warm=True) for number in range(count)]
    outliers.keep(endpoints)
    group, balancing = Group(endpoints), PowerOfTwo()
    tried: tuple[Any, ...] = ()
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(PICKS):
            balancing.pick(group, tried=tried, now=now, repeatable=True)
        rounds.append(time.perf_counter() - began)
    return min(rounds) / PICKS * 1e6


def instance(number: int) -> ServiceInstance:
    """One of many."""
    return ServiceInstance(
        service=SERVICE, id=f"{SERVICE}-{number}", address="10.0.0.1", port=1 + number, health=Health.PASSING
    )
