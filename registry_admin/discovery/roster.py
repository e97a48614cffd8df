"""Which instances of a service may be called now: kept fresh by a watch, last known good when Consul is away.

See docs/decisions/0010.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry_admin.consul.api import Reply
from registry_admin.consul.registry import nothing_healthy
from registry_admin.consul.types import Health, ServiceInstance
from registry_admin.consul.watch import WAIT_S, watch
from registry_admin.discovery.asked import Asked
from registry_admin.discovery.balancing import Group
from registry_admin.discovery.belief import Belief, believe
from registry_admin.discovery.budget import RetryBudget
from registry_admin.discovery.endpoint import Endpoint, Outliers
from registry_admin.errors import (
    ConsulPermissionError,
    ConsulRefusedError,
    ConsulUnavailableError,
    NoHealthyInstanceError,
    RegistryError,
)

if TYPE_CHECKING:
    from registry_admin.discovery.directory import Directory

logger = logging.getLogger(__name__)

FIRST_LOOKUP_S = 2.0  # how long a call waits for Consul when there is nothing to fall back on
LOOKUP_S = 0.5  # and when there is
LONGEST_BACKOFF_S = 5.0
CONFIRM_S = 30.0  # how often a file is marked as still right


_Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class _Known:
    belief: Belief
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
    """One service: its endpoints, and the watch that keeps them fresh while they are used.

    What is known is replaced whole, by one thread only: that of the watch.
    """

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
        self._first: Asked[None] | None = None  # the first lookup of the watch that runs, if one does
        self._used_at = self._confirmed_at = 0.0

    def after_fork(self) -> None:
        """In a child: the watch is the parent's, and so are the locks."""
        self._clear()
        if self._known is not None:
            self._known = replace(self._known, endpoints=self._endpoints(self._known.belief.instances, {}))

    def known_group(self, tag: str | None, *, same_node: bool) -> Group | None:
        """The endpoints to choose from, where that is known without any waiting."""
        return self._groups.get((tag, same_node))

    def group(self, tag: str | None, *, same_node: bool, timeout_s: float) -> Group:
        """The endpoints to choose from; waits for Consul where nothing is known, at most `timeout_s` seconds.

        Raises NoSuchServiceError, NoHealthyInstanceError, ConsulRefusedError, or, where Consul is away and nothing is
        known of the service, ConsulUnavailableError.
        """
        for asked, until in self._to_wait_for(timeout_s, same_node=same_node):
            asked.wait(until)
        return self._choose(tag, same_node=same_node)

    async def group_async(self, tag: str | None, *, same_node: bool, timeout_s: float) -> Group:
        """The same, without blocking the event loop."""
        for asked, until in self._to_wait_for(timeout_s, same_node=same_node):
            await asked.wait_async(until)
        return self._choose(tag, same_node=same_node)

    def inquire(self, *, timeout_s: float) -> None:
        """Sees to it that something is known; raises what `group` raises where nothing is."""
        for asked, until in self._to_wait_for(timeout_s, same_node=False):
            asked.wait(until)
        self._require_known()

    def state(self) -> RosterState:
        """What is known now; asks nobody."""
        known = self._known
        return RosterState(
            instances=known.belief.instances if known else (),
            endpoints=tuple(known.endpoints.values()) if known else (),
            source=known.source if known else "nothing yet",
            age_s=max(0.0, time.monotonic() - known.at) if known else 0.0,
            problem=str(self._problem or ""),
        )

    def _to_wait_for(self, timeout_s: float, *, same_node: bool) -> Iterator[tuple[Asked[Any], float]]:
        """What to wait for, one after another, and until when (seconds of the monotonic clock).

        Patience is counted from the asking: when it is used up, nobody waits any more.
        """
        until = time.monotonic() + timeout_s
        first = self._watched()
        yield first, min(until, first.at + LOOKUP_S)
        if self._known is None:
            yield first, min(until, first.at + FIRST_LOOKUP_S)
        if same_node and self._known is not None:
            node = self._directory.node()
            yield node, min(until, node.at + LOOKUP_S)

    def _require_known(self) -> _Known:
        known, problem = self._known, self._problem
        if known is not None:
            return known
        if problem is None:
            raise ConsulUnavailableError(f"Consul at {self._directory.api.config.url} didn't answer in time.")
        raise copy.copy(problem) from problem.__cause__

    def _choose(self, tag: str | None, *, same_node: bool) -> Group:
        first, groups, known = self._first, self._groups, self._require_known()
        chosen = [one for one in known.endpoints.values() if tag is None or tag in one.instance.tags]
        if not chosen:
            raise _nothing_to_call(self.service, tag, known.belief.instances)
        lasting = True
        if same_node:
            node = self._directory.node()
            lasting = node.is_settled()
            chosen = [one for one in chosen if one.instance.node == node.answer] or chosen
        group = Group(chosen)
        with self._lock:
            if lasting and first is not None and self._first is first:  # else nobody would ever replace it
                groups[tag, same_node] = group
        return group

    # -- the watch ----------------------------------------------------------------------------------------------------

    def _watched(self) -> Asked[None]:
        """The first lookup of the watch that runs; starts one where none does."""
        with self._lock:
            if self._first is None:
                first = Asked[None]()
                self._used_at = first.at
                try:
                    _Watch(self, self._directory, first).start()
                except RuntimeError as error:  # the system has no thread left; the next call tries again
                    self._problem = ConsulUnavailableError(f"Consul can't be watched: {error}.")
                    first.settle(None)
                    return first
                self._first = first
            return self._first

    def is_wanted(self) -> bool:
        """Called by the watch whenever it hears of Consul: whether to go on."""
        now = time.monotonic()
        if self.used:
            self.used, self._used_at = False, now
        return now - self._used_at < self._directory.idle_s

    def unwatched(self, first: Asked[None]) -> None:
        """The watch that began with `first` has ended: the next call starts another one."""
        first.settle(None)
        with self._lock:
            if self._first is first:
                self._first, self._groups = None, {}
        if self._known is None or not self._known.belief.instances:
            self._directory.forget(self.service)

    def load(self) -> None:
        """Takes what a file says, until Consul says more."""
        if self._known is None and (loaded := self._directory.cache.load(self.service)) is not None:
            instances, age_s = tuple(loaded[0]), loaded[1]
            self._accept(Belief(instances=instances, told=instances, index=0), source="file", age_s=age_s)

    def hear(self, reply: Reply[list[ServiceInstance]]) -> None:
        """Consul has told a list."""
        known = self._known
        before = known.belief if known is not None and known.source == "Consul" else None
        now = time.monotonic()
        self._accept(believe(before, reply, now=now, after_failure=self._problem is not None), source="Consul")
        self._recovered()

    def confirm(self) -> None:
        """Consul has answered: what it told last is still so, unless a list follows."""
        now, known = time.monotonic(), self._known
        if known is None or known.source != "Consul" or self._problem is not None:
            return
        if known.belief.at(now) is not known.belief:
            self._accept(known.belief.at(now), source="Consul")
        elif known.belief.doubted_at is None:
            self._known = replace(known, at=now)
            if now - self._confirmed_at > CONFIRM_S:
                self._confirmed_at = now
                self._directory.cache.confirm(self.service)

    def miss(self, problem: RegistryError) -> None:
        """Consul hasn't answered, or has refused to. A refusal outweighs a file."""
        if self._problem is None:
            logger.warning("Instances of %s are not heard of, so the last known are used: %s", self.service, problem)
        self._problem = problem
        if isinstance(problem, ConsulRefusedError) and self._known is not None and self._known.source == "file":
            self._known, self._groups = None, {}

    def _recovered(self) -> None:
        if self._problem is not None:
            logger.warning("Instances of %s are heard of again.", self.service)
        self._problem = None

    def _accept(self, belief: Belief, *, source: str, age_s: float = 0.0) -> None:
        endpoints = self._endpoints(belief.instances, self._known.endpoints if self._known else {})
        self._known = _Known(belief, source, time.monotonic() - age_s, endpoints)
        self._groups = {}
        if source == "Consul":
            self._directory.cache.save(self.service, belief.instances)

    def _endpoints(
        self, instances: Sequence[ServiceInstance], before: Mapping[_Key, Endpoint]
    ) -> Mapping[_Key, Endpoint]:
        """Of those that may be called. What is known of one stays with it; a new one beside others starts slowly."""
        now = time.monotonic()
        endpoints: dict[_Key, Endpoint] = {}
        for instance in instances:
            if instance.health is not Health.PASSING:
                continue
            key = instance.node, instance.id, instance.address, instance.port
            if (endpoint := before.get(key)) is not None:
                endpoint.update(instance)
                endpoints[key] = endpoint
            elif instance.is_callable:
                endpoints[key] = Endpoint(instance, self.outliers, now=now, warm=not before)
        self.outliers.keep(endpoints.values())
        return endpoints


class _Watch:
    """Runs on a thread until nobody uses the service any more. Between two replies it lets go of the roster."""

    def __init__(self, roster: Roster, directory: Directory, first: Asked[None]) -> None:
        self._roster = weakref.ref(roster)
        self._api = directory.api
        self._service = roster.service
        self._wait_s = min(WAIT_S, directory.idle_s)
        self._first = first
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"watch-{self._service}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._tell(Roster.load)
            for reply in watch(
                self._read,
                stop=self._stop,
                on_error=self._on_error,
                on_alive=lambda: self._tell(Roster.confirm),
                wait_s=self._wait_s,
                longest_backoff_s=LONGEST_BACKOFF_S,
            ):
                self._hear(reply)
                self._first.settle(None)
        finally:
            if (roster := self._roster()) is not None:
                roster.unwatched(self._first)

    def _read(self, index: int, wait_s: float) -> Reply[list[ServiceInstance]]:
        reply = self._api.instances(self._service, index=index, wait_s=wait_s)
        where = self._api.config.url
        if not reply.data and not reply.known_leader:  # it has lost its state, and nobody has told it anything yet
            raise ConsulUnavailableError(f"Consul at {where} has no leader yet.")
        if not reply.data and reply.filtered_by_acls:
            raise ConsulPermissionError(
                f"Consul at {where} keeps {self._service!r} from us: the token needs `service:read` and `node:read`."
            )
        return reply

    def _hear(self, reply: Reply[list[ServiceInstance]]) -> None:
        self._tell(lambda roster: roster.hear(reply))

    def _on_error(self, error: RegistryError, _pause_s: float) -> None:
        self._tell(lambda roster: roster.miss(error))
        self._first.settle(None)

    def _tell(self, what: Callable[[Roster], None]) -> None:
        """Ends the watch where the roster is gone, or nobody has used it."""
        roster = self._roster()
        if roster is not None:
            what(roster)
        if roster is None or not roster.is_wanted():
            self._stop.set()


def _nothing_to_call(service: str, tag: str | None, known: Sequence[ServiceInstance]) -> RegistryError:
    """Why: nobody registered it, nobody with this tag, or each instance's own reason."""
    tagged = [instance for instance in known if tag is None or tag in instance.tags]
    if known and not tagged:
        return NoHealthyInstanceError(service, f"No instance of {service!r} carries the tag {tag!r}.")
    return nothing_healthy(service, tagged)
