"""Which instances may be called now: kept fresh by a watch for each service, last known good when Consul is away.

A process has one directory for each Consul; all of its clients share it. See docs/decisions/0010.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass, replace

from registry_admin.consul.api import ConsulApi, Reply
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.registry import ServiceRegistry, healthy_instances
from registry_admin.consul.types import Health, ServiceInstance
from registry_admin.consul.watch import watch
from registry_admin.discovery.balancing import Group
from registry_admin.discovery.budget import RetryBudget
from registry_admin.discovery.cache import Cache
from registry_admin.discovery.endpoint import Endpoint, Outliers
from registry_admin.errors import ConsulUnavailableError, NoHealthyInstanceError, RegistryError

logger = logging.getLogger(__name__)

FIRST_LOOKUP_S = 2.0  # how long a call waits for Consul when there is nothing to fall back on
LOOKUP_S = 0.5  # and when there is
LOST_STATE_S = 60.0  # how long instances are believed in when Consul has forgotten everything
LONGEST_BACKOFF_S = 5.0
IDLE_S = 300.0  # a watch that nobody used for so long ends
CONFIRM_S = 30.0  # how often a file is marked as still right


class Directory:
    """All services that this process calls on one Consul. Shared by threads, event loops and forked children."""

    def __init__(self, api: ConsulApi, *, cache: Cache | None = None, idle_s: float = IDLE_S) -> None:
        self.api = api
        self.cache = cache or Cache.from_env(consul=api.config.url)
        self.idle_s = idle_s
        self.wants_node = False
        self._node = ""
        self._rosters: dict[str, Roster] = {}
        self._lock = threading.Lock()
        _all.add(self)

    @classmethod
    def of(cls, registry: ServiceRegistry) -> Directory:
        """The process's directory for the Consul of `registry`."""
        with _table_lock:
            directory = _table.get(registry.api.config)
            if directory is None:
                directory = _table[registry.api.config] = cls(registry.api)
            return directory

    def roster(self, service: str) -> Roster:
        """The service's instances; the name must be valid."""
        roster = self._rosters.get(service)
        if roster is None:
            with self._lock:
                roster = self._rosters.setdefault(service, Roster(self, service))
        roster.used = True
        return roster

    @property
    def node(self) -> str:
        """Our agent's node, asked once; nothing where that isn't wanted, or the token doesn't allow it."""
        if self.wants_node and not self._node:
            try:
                self._node = self.api.agent_node()[0]
            except RegistryError as error:
                logger.warning("Which instances are on the same node is not known: %s", error)
                self.wants_node = False
        return self._node

    def after_fork(self) -> None:
        """In a child: no thread runs here, and a lock may have been held by one that doesn't exist."""
        self._lock = threading.Lock()
        for roster in self._rosters.values():
            roster.after_fork()


_Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Known:
    instances: tuple[ServiceInstance, ...]
    index: int
    source: str
    at: float  # when it was last seen to be so, by the clock of time.monotonic
    endpoints: Mapping[_Key, Endpoint]  # of those that may be called


@dataclass(frozen=True, kw_only=True)
class RosterState:
    """What is known of a service. `source` is "Consul", "file" or "nothing yet"; `age_s` since it was last confirmed.

    `problem` is what is wrong with Consul now, or nothing. `endpoints` are those that may be called.
    """

    instances: tuple[ServiceInstance, ...]
    endpoints: tuple[Endpoint, ...]
    source: str
    age_s: float
    problem: str


class Roster:
    """One service: its endpoints, and the watch that keeps them fresh while they are used."""

    def __init__(self, directory: Directory, service: str) -> None:
        self.service = service
        self.used = False
        self._directory = directory
        self._known: _Known | None = None
        self._problem: RegistryError | None = None
        self._clear()

    def _clear(self) -> None:
        """As if nobody had called yet, but with what is known."""
        self.outliers = Outliers()
        self.budget = RetryBudget(clock=time.monotonic)
        self._lock = threading.Lock()
        self._groups: dict[tuple[str | None, bool], Group] = {}
        self._first: Future[None] | None = None  # the first lookup of the watch that runs, if one does
        self._used_at = self._confirmed_at = 0.0
        self._doubted_at: float | None = None

    def after_fork(self) -> None:
        """In a child: the watch is the parent's, and so are the locks."""
        self._clear()
        if self._known is not None:
            self._known = replace(self._known, endpoints=self._endpoints(self._known.instances, {}))

    def known_group(self, tag: str | None, *, same_node: bool) -> Group | None:
        """The endpoints to choose from, where that is known without any waiting."""
        return self._groups.get((tag, same_node))

    def group(self, tag: str | None, *, same_node: bool, timeout_s: float) -> Group:
        """The endpoints to choose from; waits for Consul where nothing is known, at most `timeout_s` seconds.

        Raises NoSuchServiceError, NoHealthyInstanceError, ConsulRefusedError, or, where Consul is away and nothing is
        known of the service, ConsulUnavailableError.
        """
        first = self._watched()
        wait([first], timeout=self._patience_s(timeout_s))
        return self._choose(first, tag, same_node=same_node)

    async def group_async(self, tag: str | None, *, same_node: bool, timeout_s: float) -> Group:
        """The same, without blocking the event loop."""
        first = self._watched()
        if not first.done():
            await asyncio.wait([asyncio.wrap_future(first)], timeout=self._patience_s(timeout_s))
        return self._choose(first, tag, same_node=same_node)

    def state(self) -> RosterState:
        """What is known now; asks nobody."""
        known = self._known
        return RosterState(
            instances=known.instances if known else (),
            endpoints=tuple(known.endpoints.values()) if known else (),
            source=known.source if known else "nothing yet",
            age_s=max(0.0, time.monotonic() - known.at) if known else 0.0,
            problem=str(self._problem or ""),
        )

    def _patience_s(self, timeout_s: float) -> float:
        return min(timeout_s, LOOKUP_S if self._known is not None else FIRST_LOOKUP_S)

    def inquire(self, *, timeout_s: float) -> None:
        """Sees to it that something is known; raises what `group` raises where nothing is."""
        first = self._watched()
        wait([first], timeout=self._patience_s(timeout_s))
        self._require_known(first)

    def _require_known(self, first: Future[None]) -> _Known:
        if not first.done():
            where = self._directory.api.config.url
            self._problem = ConsulUnavailableError(f"Consul at {where} didn't answer in time.")
            _settle(first)  # nobody else need wait for it
        if self._known is None:
            self._load()
        if self._known is None:
            raise copy.copy(self._problem or ConsulUnavailableError("Consul has told nothing of this service yet."))
        return self._known

    def _choose(self, first: Future[None], tag: str | None, *, same_node: bool) -> Group:
        groups, known = self._groups, self._require_known(first)
        healthy = _healthy(self.service, tag, known.instances)
        near = [one for one in healthy if one.node == self._directory.node] if same_node else []
        group = Group([known.endpoints[_key(one)] for one in near or healthy])
        with self._lock:
            if self._first is first:  # else nobody would ever replace it
                groups[tag, same_node] = group
        return group

    # -- the watch ----------------------------------------------------------------------------------------------------

    def _watched(self) -> Future[None]:
        """The first lookup of the watch that runs; starts one where none does."""
        with self._lock:
            if self._first is None:
                self._first = Future()
                self._used_at = time.monotonic()
                _Watch(self, self._directory.api, self._first)
            return self._first

    def is_wanted(self) -> bool:
        """Called by the watch whenever it hears of Consul: whether to go on."""
        now = time.monotonic()
        if self.used:
            self.used, self._used_at = False, now
        return now - self._used_at < self._directory.idle_s

    def unwatched(self, first: Future[None]) -> None:
        """The watch that began with `first` has ended: the next call starts another one."""
        _settle(first)
        with self._lock:
            if self._first is first:
                self._first, self._groups = None, {}

    def hear(self, reply: Reply[list[ServiceInstance]]) -> None:
        """What the watch has seen. An index that goes backwards means that an agent has lost its state.

        Then an empty list is no proof of absence.
        """
        known = self._known
        if not reply.data and known is not None and known.instances and reply.index < known.index:
            self._doubted_at = time.monotonic()
            return
        self._doubted_at = None
        self._accept(reply.data, source="Consul", index=reply.index)

    def confirm(self) -> None:
        """Consul has answered: what is known is still so, unless it is doubted."""
        now, known = time.monotonic(), self._known
        self._problem = None
        if self._doubted_at is not None:
            if now - self._doubted_at > LOST_STATE_S:
                self._doubted_at = None
                self._accept([], source="Consul")
        elif known is not None and known.source == "Consul":
            self._known = replace(known, at=now)
            if now - self._confirmed_at > CONFIRM_S:
                self._confirmed_at = now
                self._directory.cache.confirm(self.service)

    def miss(self, problem: RegistryError) -> None:
        """Consul hasn't answered, or has refused to."""
        self._problem = problem

    def _load(self) -> None:
        loaded = self._directory.cache.load(self.service)
        if loaded is not None and self._known is None:
            instances, age_s = loaded
            self._accept(instances, source="file", age_s=age_s)

    def _accept(self, instances: Sequence[ServiceInstance], *, source: str, index: int = 0, age_s: float = 0.0) -> None:
        before = self._known
        endpoints = self._endpoints(instances, before.endpoints if before else {})
        self._known = _Known(tuple(instances), index, source, time.monotonic() - age_s, endpoints)
        self._groups = {}
        if source == "Consul" and (
            before is None or before.source != source or before.instances != self._known.instances
        ):
            self._directory.cache.save(self.service, instances)

    def _endpoints(
        self, instances: Sequence[ServiceInstance], before: Mapping[_Key, Endpoint]
    ) -> Mapping[_Key, Endpoint]:
        """Of those that may be called. What is known of one stays with it; a new one beside others starts slowly."""
        now = time.monotonic()
        endpoints: dict[_Key, Endpoint] = {}
        for instance in instances:
            if instance.health is Health.PASSING and instance.is_callable:
                key = _key(instance)
                endpoints[key] = before.get(key) or Endpoint(instance, self.outliers, now=now, warm=not before)
                endpoints[key].update(instance)
        self.outliers.keep(endpoints.values())
        return endpoints


class _Watch:
    """Runs on a thread until nobody uses the service any more. Between two replies it lets go of the roster."""

    def __init__(self, roster: Roster, api: ConsulApi, first: Future[None]) -> None:
        self._roster = weakref.ref(roster)
        self._api = api
        self._service = roster.service
        self._first = first
        self._stop = threading.Event()
        threading.Thread(target=self._run, name=f"watch-{roster.service}", daemon=True).start()

    def _run(self) -> None:
        try:
            for reply in watch(
                self._read,
                stop=self._stop,
                on_error=self._on_error,
                on_alive=self._on_alive,
                longest_backoff_s=LONGEST_BACKOFF_S,
            ):
                self._hear(reply)
                _settle(self._first)
        finally:
            if (roster := self._roster()) is not None:
                roster.unwatched(self._first)

    def _read(self, index: int, wait_s: float) -> Reply[list[ServiceInstance]]:
        reply = self._api.instances(self._service, index=index, wait_s=wait_s)
        if not reply.data and not reply.known_leader:  # it has lost its state, and nobody has told it anything yet
            raise ConsulUnavailableError(f"Consul at {self._api.config.url} has no leader yet.")
        return reply

    def _hear(self, reply: Reply[list[ServiceInstance]]) -> None:
        if (roster := self._roster()) is not None:
            roster.hear(reply)

    def _on_error(self, error: RegistryError, _pause_s: float) -> None:
        if (roster := self._roster()) is not None:
            roster.miss(error)
        _settle(self._first)
        self._go_on(roster)

    def _on_alive(self) -> None:
        if (roster := self._roster()) is not None:
            roster.confirm()
        self._go_on(roster)

    def _go_on(self, roster: Roster | None) -> None:
        if roster is None or not roster.is_wanted():
            self._stop.set()


def _settle(first: Future[None]) -> None:
    with suppress(InvalidStateError):
        first.set_result(None)


def _key(instance: ServiceInstance) -> _Key:
    return instance.node, instance.id, instance.url


def _healthy(service: str, tag: str | None, known: Sequence[ServiceInstance]) -> list[ServiceInstance]:
    if tag is None or not known:
        return healthy_instances(service, known)
    tagged = [instance for instance in known if tag in instance.tags]
    if not tagged:
        raise NoHealthyInstanceError(service, f"No instance of {service!r} carries the tag {tag!r}.")
    return healthy_instances(service, tagged)


_table: weakref.WeakValueDictionary[ConsulConfig, Directory] = weakref.WeakValueDictionary()
_all: weakref.WeakSet[Directory] = weakref.WeakSet()
_table_lock = threading.Lock()


def _after_fork() -> None:
    global _table_lock  # noqa: PLW0603
    _table_lock = threading.Lock()
    for directory in list(_all):
        directory.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
