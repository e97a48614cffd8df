"""Picking an instance for another client: a database driver, gRPC, a WebSocket, an HTTP client of one's own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from registry_admin.consul import validation
from registry_admin.consul.addresses import url_host
from registry_admin.consul.types import ServiceInstance
from registry_admin.discovery.instances.load_balancing import InstanceGroup, LoadBalancer
from registry_admin.discovery.instances.outlier_detection import Endpoint, FailureKind
from registry_admin.discovery.instances.service_cache import ServiceCache
from registry_admin.discovery.own_instances import MISDIRECTED
from registry_admin.discovery.propagation import current_deadline
from registry_admin.errors import InvalidValueError, NoHealthyInstanceError

FAILURES: tuple[type[BaseException], ...] = (OSError, EOFError)  # TimeoutError and ConnectionError are OSErrors


@dataclass(kw_only=True)
class PickedInstance:
    """A healthy instance, for as long as a block uses it.

    `url` is `http://address:port`, with the scheme and the base path that the instance's meta says. `headers` name the
    instance in a request, so that another one at its address refuses it. `fail` tells that it didn't serve.
    """

    id: str
    service: str
    address: str
    port: int
    url: str
    node: str
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    failure: str = field(default="", init=False)
    failure_kind: FailureKind = field(default=FailureKind.NO_REPLY, init=False)

    @property
    def host_port(self) -> str:
        """`address:port`, IPv6 in brackets: what gRPC and most drivers take."""
        return f"{url_host(self.address)}:{self.port}"

    def fail(self, reason: str) -> None:
        """Counts its use as failed, though no exception leaves the block."""
        self.failure, self.failure_kind = reason or "it failed", FailureKind.NO_REPLY

    def record_status(self, status: int) -> None:
        """Counts its use by the status of an HTTP reply: one of 500 or above is a failure, as it is of a call.

        421 is one as well: another instance has got the address.
        """
        if status == MISDIRECTED:
            self.failure, self.failure_kind = "another instance answers at its address", FailureKind.MISDIRECTED
        elif status >= 500:
            self.failure, self.failure_kind = f"status {status}", FailureKind.SERVER_ERROR


class Pick(AbstractContextManager[PickedInstance], AbstractAsyncContextManager[PickedInstance]):
    """Context manager, with `with` or `async with`, that picks an instance and records how its use ended.

    An exception of `failures` that leaves the block counts against the instance, as a call without a reply does; any
    other one counts neither way. It goes on to the caller in both cases. Entered once more after the block, it picks
    another instance, where there is one.
    """

    def __init__(
        self,
        find_cache: Callable[[str], ServiceCache],
        service: str,
        *,
        tag: str | None,
        timeout_s: float,
        same_node: bool,
        failures: tuple[type[BaseException], ...],
        load_balancer: LoadBalancer,
    ) -> None:
        self._find_cache = find_cache
        self._service = validation.service_name(service, "service")
        self._tag = None if tag is None else validation.selected_tag(tag)
        self._timeout_s = timeout_s
        self._same_node = same_node
        self._failures = failures
        self._load_balancer = load_balancer
        self._endpoint: Endpoint | None = None
        self._picked: PickedInstance | None = None
        self._tried: list[Endpoint] = []

    def __enter__(self) -> PickedInstance:
        return self._start(self._wait_for_group())

    async def __aenter__(self) -> PickedInstance:
        return self._start(await self.find_group())

    def _wait_for_group(self) -> InstanceGroup:
        cache = self._find_cache(self._service)
        return cache.cached_group(self._tag, same_node=self._same_node) or cache.wait_for_group(
            self._tag, same_node=self._same_node, timeout_s=self._remaining_s()
        )

    async def find_group(self) -> InstanceGroup:
        """Returns the instances to choose from, without blocking the event loop."""
        cache = self._find_cache(self._service)
        return cache.cached_group(self._tag, same_node=self._same_node) or await cache.wait_for_group_async(
            self._tag, same_node=self._same_node, timeout_s=self._remaining_s()
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        endpoint, picked, now = self._endpoint, self._picked, time.monotonic()
        if endpoint is None or picked is None:
            return
        self._endpoint = self._picked = None
        latency_s = endpoint.latency or 0.0  # how long a connection is used says nothing of how quick it is
        if isinstance(error, self._failures) or picked.failure:
            reason = picked.failure or f"{type(error).__name__} while it was used"
            endpoint.record_failure(now, duration_s=latency_s, kind=picked.failure_kind, reason=reason)
        elif error is not None:
            endpoint.record_cancelled(now)
        else:
            endpoint.record_success(now, duration_s=latency_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    async def find_instances(self) -> list[ServiceInstance]:
        """Does the same as `instances` without blocking the event loop."""
        return _in_order(await self.find_group())

    def instances(self) -> list[ServiceInstance]:
        """Returns all healthy instances in a random order, ejected ones last."""
        return _in_order(self._wait_for_group())

    def _remaining_s(self) -> float:
        deadline = current_deadline()
        return self._timeout_s if deadline is None else max(0.0, min(self._timeout_s, deadline - time.monotonic()))

    def _start(self, group: InstanceGroup) -> PickedInstance:
        if self._endpoint is not None:
            raise RuntimeError("a pick can be entered once at a time; make another one")
        now = time.monotonic()
        endpoint = self._load_balancer.pick(group, tried=self._tried, now=now, repeatable=True)
        if endpoint is None and self._tried:
            self._tried.clear()
            endpoint = self._load_balancer.pick(group, tried=(), now=now, repeatable=True)
        if endpoint is None:
            raise NoHealthyInstanceError(self._service)
        endpoint.start_attempt(now)
        self._tried.append(endpoint)
        instance = endpoint.instance
        self._endpoint = endpoint
        self._picked = PickedInstance(
            id=instance.id,
            service=instance.service,
            address=instance.address,
            port=instance.port,
            url=endpoint.url,
            node=instance.node,
            tags=instance.tags,
            meta=instance.user_meta,
            headers=endpoint.headers,
        )
        return self._picked


def _in_order(group: InstanceGroup) -> list[ServiceInstance]:
    ordered = sorted(random.sample(group.endpoints, len(group.endpoints)), key=lambda endpoint: endpoint.is_ejected)
    return [endpoint.instance for endpoint in ordered]


def check_failures(failures: Any) -> tuple[type[BaseException], ...]:
    """Returns the exception types that count against an instance; raises InvalidValueError."""
    kinds = (failures,) if isinstance(failures, type) else tuple(failures)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise InvalidValueError("failures", "(not shown)", "give exception types, such as httpx.TransportError")
    return kinds
