"""Cached instances of one service: kept up to date by a watch, last known good while Consul is away.

See docs/decisions/0010.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from registry_admin.consul.api import ConsulApi, ConsulReply
from registry_admin.consul.health import Health
from registry_admin.consul.registry import no_healthy_instance
from registry_admin.consul.types import ServiceInstance
from registry_admin.discovery.instances.agent_node import AgentNode
from registry_admin.discovery.instances.disk_cache import DiskCache
from registry_admin.discovery.instances.last_known_good import LastKnownGood, merge_reply
from registry_admin.discovery.instances.load_balancing import InstanceGroup
from registry_admin.discovery.instances.outlier_detection import Endpoint, OutlierDetector
from registry_admin.discovery.instances.pending import Pending
from registry_admin.discovery.instances.response_times import ResponseTimes
from registry_admin.discovery.instances.retry_budget import RetryBudget
from registry_admin.discovery.instances.service_watch import ServiceWatch
from registry_admin.discovery.instances.watch_slots import WatchSlots
from registry_admin.errors import ConsulRefusedError, ConsulUnavailableError, NoHealthyInstanceError, RegistryError

logger = logging.getLogger(__name__)

FIRST_LOOKUP_S = 2.0  # a call waits so long for Consul if no instance list is cached
LOOKUP_S = 0.5  # and so long if one is
UNKNOWN_IDLE_S = 5.0  # a service without any instance is watched so long after the last call
TOUCH_S = 30.0  # the file of a list that hasn't changed is touched so often

_EndpointKey = tuple[str, str, str, int]  # node, ID, address, port


class InstanceSource(StrEnum):
    """Origin of a cached list."""

    CONSUL = "Consul"
    FILE = "file"
    NONE = "nothing yet"


@dataclass(frozen=True)
class _CachedList:
    """A list with its endpoints that may be called, last confirmed at `confirmed_at` (time.monotonic).

    `may_be_hidden`: Consul's ACLs hide what nobody has allowed from us, who sent no token.
    """

    last_known_good: LastKnownGood
    source: InstanceSource
    confirmed_at: float
    endpoints: Mapping[_EndpointKey, Endpoint]
    may_be_hidden: bool = False

    @property
    def instances(self) -> tuple[ServiceInstance, ...]:
        return self.last_known_good.instances

    @property
    def age_s(self) -> float:
        return max(0.0, time.monotonic() - self.confirmed_at)


@dataclass(frozen=True, kw_only=True)
class ServiceCacheState:
    """Contents of a ServiceCache: instances, those of them that may be called, and seconds since Consul confirmed them.

    `error` is the text of the last failure of the watch, empty while it works.
    """

    instances: tuple[ServiceInstance, ...]
    endpoints: tuple[Endpoint, ...]
    source: InstanceSource
    age_s: float
    error: str


class ServiceCache:
    """Instances of one service, and the watch that runs while calls use them.

    The cached list is replaced as a whole, and only by the thread of the watch.
    """

    def __init__(
        self,
        service: str,
        *,
        api: ConsulApi,
        disk_cache: DiskCache,
        agent_node: AgentNode,
        slots: WatchSlots,
        idle_s: float,
        on_unused: Callable[[str], None],
    ) -> None:
        """Makes an empty cache; the first call starts the watch.

        The watch ends when no call has set `used` for `idle_limit_s` seconds. If there are no instances then,
        `on_unused` is called with the service's name.
        """
        self.service = service
        self.used = False
        self.idle_s = idle_s
        self._api = api
        self._disk_cache = disk_cache
        self._agent_node = agent_node
        self._slots = slots
        self._on_unused = on_unused
        self._cached: _CachedList | None = None
        self._error: RegistryError | None = None
        self._reset()

    def _reset(self) -> None:
        """Forgets all calls and the watch, and keeps the cached list."""
        self.outlier_detector = OutlierDetector()
        self.retry_budget = RetryBudget(clock=time.monotonic)
        self.response_times = ResponseTimes()
        self._lock = threading.Lock()
        self._groups: dict[tuple[str | None, bool], InstanceGroup] = {}
        self._first_lookup: Pending[None] | None = None  # of the running watch
        self._used_at = self._touched_at = 0.0

    def after_fork(self) -> None:
        """Starts anew in a forked child: the watch and the locks are the parent's."""
        self._reset()
        if self._cached is not None:
            self._cached = replace(self._cached, endpoints=self._endpoints(self._cached.instances, {}))

    # -- for callers --------------------------------------------------------------------------------------------------

    def cached_group(self, tag: str | None, *, same_node: bool) -> InstanceGroup | None:
        """Returns the instances to choose from, or None if `wait_for_group` has to find them first."""
        return self._groups.get((tag, same_node))

    def wait_for_group(self, tag: str | None, *, same_node: bool, timeout_s: float) -> InstanceGroup:
        """Returns the instances to choose from; waits for Consul if none are cached, at most `timeout_s` seconds.

        Raises NoSuchServiceError, NoHealthyInstanceError, ConsulRefusedError, or ConsulUnavailableError if Consul is
        away and no list is cached.
        """
        for lookup, deadline in self._lookups(timeout_s, same_node=same_node):
            lookup.wait(deadline)
        return self._make_group(tag, same_node=same_node)

    async def wait_for_group_async(self, tag: str | None, *, same_node: bool, timeout_s: float) -> InstanceGroup:
        """Does the same as `wait_for_group` without blocking the event loop."""
        for lookup, deadline in self._lookups(timeout_s, same_node=same_node):
            await lookup.wait_async(deadline)
        return self._make_group(tag, same_node=same_node)

    def wait_for_instances(self, *, timeout_s: float) -> None:
        """Waits until a list is cached, which may be empty; raises what `wait_for_group` raises if there is none."""
        for lookup, deadline in self._lookups(timeout_s, same_node=False):
            lookup.wait(deadline)
        self._require_cached()

    @property
    def state(self) -> ServiceCacheState:
        """Contents at this moment, without a request."""
        cached, error = self._cached, str(self._error or "")
        if cached is None:
            return ServiceCacheState(instances=(), endpoints=(), source=InstanceSource.NONE, age_s=0.0, error=error)
        endpoints = tuple(cached.endpoints.values())
        return ServiceCacheState(
            instances=cached.instances, endpoints=endpoints, source=cached.source, age_s=cached.age_s, error=error
        )

    def _lookups(self, timeout_s: float, *, same_node: bool) -> Iterator[tuple[Pending[Any], float]]:
        """Yields the lookups to wait for, with the time (time.monotonic) until which to wait.

        That time counts from the start of the lookup, so that a Consul that doesn't reply delays calls only once.
        """
        deadline = time.monotonic() + timeout_s
        first_lookup = self._ensure_watch()
        yield first_lookup, min(deadline, first_lookup.started_at + LOOKUP_S)
        if self._cached is None:
            yield first_lookup, min(deadline, first_lookup.started_at + FIRST_LOOKUP_S)
        if same_node and self._cached is not None:
            node_lookup = self._agent_node.look_up()
            yield node_lookup, min(deadline, node_lookup.started_at + LOOKUP_S)

    def _require_cached(self) -> _CachedList:
        cached, error = self._cached, self._error
        if cached is not None:
            return cached
        if error is None:
            raise ConsulUnavailableError(f"Consul at {self._api.config.url} didn't answer in time.")
        raise copy.copy(error) from error.__cause__

    def _make_group(self, tag: str | None, *, same_node: bool) -> InstanceGroup:
        first_lookup, groups, cached = self._first_lookup, self._groups, self._require_cached()
        endpoints = [endpoint for endpoint in cached.endpoints.values() if tag is None or tag in endpoint.instance.tags]
        if not endpoints:
            raise _no_instance_error(self.service, tag, cached)
        is_final = True
        if same_node:
            node_lookup = self._agent_node.look_up()
            is_final = node_lookup.is_resolved
            local = [endpoint for endpoint in endpoints if endpoint.instance.node == node_lookup.result]
            endpoints = local or endpoints
        group = InstanceGroup(endpoints)
        with self._lock:
            is_watched = first_lookup is not None and self._first_lookup is first_lookup
            if is_final and is_watched:  # a group that no watch replaces would be used for ever
                groups[tag, same_node] = group
        return group

    def _ensure_watch(self) -> Pending[None]:
        """Returns the first lookup of the running watch; starts a watch if there is none."""
        with self._lock:
            if self._first_lookup is None:
                first_lookup = Pending[None]()
                self._used_at = first_lookup.started_at
                try:
                    ServiceWatch(self, self._api, first_lookup, slots=self._slots).start()
                except RuntimeError as error:  # the system has no thread left; the next call tries again
                    self._error = ConsulUnavailableError(f"Consul can't be watched: {error}.")
                    first_lookup.resolve(None)
                    return first_lookup
                self._first_lookup = first_lookup
            return self._first_lookup

    # -- for the watch ------------------------------------------------------------------------------------------------

    def on_start(self) -> None:
        """Loads the list from disk if none is cached."""
        if self._cached is None and (saved := self._disk_cache.load(self.service)) is not None:
            instances = tuple(saved.instances)
            last_known_good = LastKnownGood(instances=instances, reported=instances, index=0)
            self._replace(last_known_good, source=InstanceSource.FILE, age_s=saved.age_s)

    def on_update(self, reply: ConsulReply[list[ServiceInstance]]) -> None:
        """Replaces the cached instances by those in `reply`, merged with the last known good ones."""
        cached = self._cached
        previous = cached.last_known_good if cached is not None and cached.source is InstanceSource.CONSUL else None
        merged = merge_reply(previous, reply, now=time.monotonic(), after_failure=self._error is not None)
        self._replace(merged, source=InstanceSource.CONSUL, may_be_hidden=reply.may_be_hidden)
        if self._error is not None:
            logger.warning("Watching %s works again.", self.service)
        self._error = None

    def on_reply(self) -> None:
        """Confirms the cached list, and ends the time in which instances are kept that Consul has forgotten."""
        now, cached = time.monotonic(), self._cached
        if cached is None or cached.source is not InstanceSource.CONSUL or self._error is not None:
            return
        current = cached.last_known_good.at(now)
        if current is not cached.last_known_good:
            self._replace(current, source=InstanceSource.CONSUL, may_be_hidden=cached.may_be_hidden)
        elif current.doubted_since is None:
            self._cached = replace(cached, confirmed_at=now)
            if now - self._touched_at > TOUCH_S:
                self._touched_at = now
                self._disk_cache.touch(self.service)

    def on_error(self, error: RegistryError) -> None:
        """Keeps the cached instances and records `error`. A refusal (4xx) drops those that were loaded from disk."""
        is_first, self._error = self._error is None, error
        cached = self._cached
        if cached is not None and cached.source is InstanceSource.FILE and isinstance(error, ConsulRefusedError):
            self._cached, self._groups = None, {}
        if is_first:
            logger.warning("Watching %s failed, %s: %s", self.service, _fallback(self._cached), error)

    def is_in_use(self) -> bool:
        """Returns whether a call has used the service within `idle_limit_s` seconds."""
        now = time.monotonic()
        if self.used:
            self.used, self._used_at = False, now
        return now - self._used_at < self.idle_limit_s

    @property
    def idle_limit_s(self) -> float:
        """Seconds without a call after which the watch ends: `idle_s`, and fewer for a service without instances."""
        is_unknown = self._cached is not None and not self._cached.instances
        return min(self.idle_s, UNKNOWN_IDLE_S) if is_unknown else self.idle_s

    def on_watch_end(self, first_lookup: Pending[None]) -> None:
        """Lets the next call start another watch."""
        first_lookup.resolve(None)
        with self._lock:
            if self._first_lookup is first_lookup:
                self._first_lookup, self._groups = None, {}
        if self._cached is None or not self._cached.instances:
            self._on_unused(self.service)

    def _replace(
        self, last_known_good: LastKnownGood, *, source: InstanceSource, age_s: float = 0.0, may_be_hidden: bool = False
    ) -> None:
        endpoints = self._endpoints(last_known_good.instances, self._cached.endpoints if self._cached else {})
        self._cached = _CachedList(last_known_good, source, time.monotonic() - age_s, endpoints, may_be_hidden)
        self._groups = {}
        if source is InstanceSource.CONSUL:
            self._disk_cache.save(self.service, last_known_good.instances)

    def _endpoints(
        self, instances: Sequence[ServiceInstance], previous: Mapping[_EndpointKey, Endpoint]
    ) -> Mapping[_EndpointKey, Endpoint]:
        """Returns the endpoints that may be called: those in `previous` as they are, new ones with a slow start."""
        now = time.monotonic()
        endpoints: dict[_EndpointKey, Endpoint] = {}
        for instance in instances:
            if instance.health is not Health.PASSING:
                continue
            key = instance.node, instance.id, instance.address, instance.port
            if (endpoint := previous.get(key)) is not None:
                endpoint.update(instance)
                endpoints[key] = endpoint
            elif instance.is_callable:
                endpoints[key] = Endpoint(instance, self.outlier_detector, now=now, warm=not previous)
        self.outlier_detector.set_endpoints(endpoints.values())
        return endpoints


def _fallback(cached: _CachedList | None) -> str:
    if cached is None or not cached.instances:
        return "and no instance is known"
    count = len(cached.instances)
    since = time.strftime("%H:%M:%S", time.localtime(time.time() - cached.age_s))
    return f"using the {count} {'instance' if count == 1 else 'instances'} known since {since}"


def _no_instance_error(service: str, tag: str | None, cached: _CachedList) -> RegistryError:
    """Returns the error for a service without an instance to call, with the reason of each instance."""
    tagged = [instance for instance in cached.instances if tag is None or tag in instance.tags]
    if cached.instances and not tagged:
        return NoHealthyInstanceError(service, f"No instance of {service!r} carries the tag {tag!r}.")
    return no_healthy_instance(service, tagged, may_be_hidden=cached.may_be_hidden)
