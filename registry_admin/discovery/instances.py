"""What is healthy now, and the last known good when Consul is away: today by one lookup per call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

from registry_admin.consul.api import Reply
from registry_admin.consul.registry import ServiceRegistry, healthy_instances
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import ConsulUnavailableError, NoHealthyInstanceError

FIRST_LOOKUP_S = 2.0  # how long a call waits for Consul when there is nothing to fall back on
LOOKUP_S = 0.5  # and when there is
AFTER_FAILURE_S = 2.0  # Consul isn't asked again for so long after it failed
LOST_STATE_S = 60.0  # how long instances are believed in when Consul has forgotten everything

_Lookup = Future[Reply[list[ServiceInstance]]]


@dataclass(frozen=True)
class _Known:
    instances: tuple[ServiceInstance, ...]
    index: int
    at: float


class Instances:
    """The instances of services, looked up when asked for. Shared by threads, event loops and forked children.

    It holds no lock: what is kept is replaced whole, and a lost update only costs one more lookup.
    """

    def __init__(self, registry: ServiceRegistry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._failure: tuple[float, str] | None = None

    def healthy(self, service: str, *, tag: str | None = None, timeout_s: float) -> list[ServiceInstance]:
        """Those that may be called now; waits at most `timeout_s` for Consul.

        Raises NoSuchServiceError, NoHealthyInstanceError, ConsulRefusedError, or, where Consul is away and nothing is
        known of the service, ConsulUnavailableError.
        """
        lookup = self._begin(service)
        if lookup is not None:
            wait([lookup], timeout=self._patience(service, timeout_s))
        return self._choose(service, tag, lookup)

    async def healthy_async(self, service: str, *, tag: str | None = None, timeout_s: float) -> list[ServiceInstance]:
        """The same, without blocking the event loop."""
        lookup = self._begin(service)
        if lookup is not None:
            waiter = asyncio.wrap_future(lookup)
            waiter.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is read from `lookup`
            await asyncio.wait([waiter], timeout=self._patience(service, timeout_s))
        return self._choose(service, tag, lookup)

    def _patience(self, service: str, timeout_s: float) -> float:
        return min(timeout_s, LOOKUP_S if service in self._known else FIRST_LOOKUP_S)

    def _begin(self, service: str) -> _Lookup | None:
        """A lookup under way, on a thread of its own, so that not even a Consul that trickles can hold up a call."""
        if self._failure is not None and self._clock() < self._failure[0]:
            return None
        lookup: _Lookup = Future()
        lookup.set_running_or_notify_cancel()

        def look_up() -> None:
            try:
                lookup.set_result(self._registry.api.instances(service))
            except BaseException as error:  # noqa: BLE001 - it is raised again where the result is read
                lookup.set_exception(error)

        threading.Thread(target=look_up, name=f"lookup-{service}", daemon=True).start()
        return lookup

    def _choose(self, service: str, tag: str | None, lookup: _Lookup | None) -> list[ServiceInstance]:
        try:
            instances = self._settle(service, lookup)
        except ConsulUnavailableError:
            known = self._known.get(service)
            if known is None:
                raise
            instances = known.instances
        return _healthy(service, tag, instances)

    def _settle(self, service: str, lookup: _Lookup | None) -> Sequence[ServiceInstance]:
        if lookup is None:
            said = self._failure[1] if self._failure else "Consul failed a moment ago"
            raise ConsulUnavailableError(said)
        try:
            if not lookup.done():
                where = self._registry.api.config.url
                raise ConsulUnavailableError(f"Consul at {where} didn't answer in time.")  # noqa: TRY301
            reply = lookup.result()
        except ConsulUnavailableError as error:
            self._failure = (self._clock() + AFTER_FAILURE_S, str(error))
            raise
        self._failure = None
        return self._believed(service, reply)

    def _believed(self, service: str, reply: Reply[list[ServiceInstance]]) -> Sequence[ServiceInstance]:
        """What the reply tells. An empty list from an agent that has just lost its state is no proof of absence.

        There are two such cases: it has no leader yet, or its index went backwards, which only a new state does.
        """
        known, now = self._known.get(service), self._clock()
        if not reply.data:
            if not reply.known_leader:
                raise ConsulUnavailableError(f"Consul at {self._registry.api.config.url} has no leader yet.")
            if known is not None and reply.index < known.index and now < known.at + LOST_STATE_S:
                return known.instances
            self._known.pop(service, None)
            return []
        self._known[service] = _Known(tuple(reply.data), reply.index, now)
        return reply.data


def _healthy(service: str, tag: str | None, known: Sequence[ServiceInstance]) -> list[ServiceInstance]:
    if tag is None or not known:
        return healthy_instances(service, known)
    tagged = [instance for instance in known if tag in instance.tags]
    if not tagged:
        raise NoHealthyInstanceError(service, f"No instance of {service!r} carries the tag {tag!r}.")
    return healthy_instances(service, tagged)
