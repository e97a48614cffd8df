"""Channels of gRPC to healthy instances. Python's gRPC takes no resolver of one's own, so each use picks a channel.

    search = ServiceChannels("search")
    with search.pick() as channel:
        reply = SearchStub(channel).Find(request, timeout=1)

With grpc.aio: `ServiceChannels("search", make_channel=grpc.aio.insecure_channel)` and `async with search.apick() as …`.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from registry_admin.consul.types import ServiceInstance
from registry_admin.discovery.calls.client import BaseClient, default_client
from registry_admin.discovery.calls.pick import Pick, PickedInstance

# The instance didn't serve; other codes are answers: https://grpc.io/docs/guides/status-codes/
FAILURE_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL})


class ServiceChannels:
    """A channel to each instance of a service that has been picked, shared by all threads.

    `make_channel` makes one for `address:port`, by default without TLS. A channel to an instance that has left Consul
    is let go of, and closes when its last call has ended.
    """

    def __init__(
        self,
        service: str,
        client: BaseClient | None = None,
        *,
        tag: str | None = None,
        make_channel: Callable[[str], Any] = grpc.insecure_channel,
    ) -> None:
        self._service = service
        self._client = client
        self._tag = tag
        self._make_channel = make_channel
        self._channels: dict[str, Any] = {}
        self._lock = threading.Lock()

    @contextmanager
    def pick(self, *, timeout: float | None = None) -> Iterator[Any]:
        """Yields the channel to a picked instance; an RpcError with a code of FAILURE_CODES counts against it.

        `timeout` is in seconds, for finding an instance. Raises the errors of a call that finds none.
        """
        pick = self._pick(timeout)
        with pick as instance, _counting_errors(instance):
            yield self._channel(instance) or self._open_channel(instance, pick.instances())

    @asynccontextmanager
    async def apick(self, *, timeout: float | None = None) -> AsyncIterator[Any]:  # noqa: ASYNC109 - as `pick`
        """`pick` without blocking the event loop, for channels of grpc.aio."""
        pick = self._pick(timeout)
        async with pick as instance:
            with _counting_errors(instance):
                yield self._channel(instance) or self._open_channel(instance, await pick.find_instances())

    def _pick(self, timeout_s: float | None) -> Pick:
        client = self._client or default_client()
        return client.pick(self._service, tag=self._tag, timeout=timeout_s, failures=())

    def _channel(self, instance: PickedInstance) -> Any:
        with self._lock:
            return self._channels.get(instance.host_port)

    def _open_channel(self, instance: PickedInstance, offered: Sequence[ServiceInstance]) -> Any:
        """Returns a new channel, unless another thread has made one meanwhile."""
        current = {instance.host_port, *(other.host_port for other in offered)}
        with self._lock:
            for address in self._channels.keys() - current:
                del self._channels[address]
            if instance.host_port not in self._channels:
                self._channels[instance.host_port] = self._make_channel(instance.host_port)
            return self._channels[instance.host_port]


@contextmanager
def _counting_errors(instance: PickedInstance) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code = error.code()
        if code in FAILURE_CODES:
            instance.fail(code.name)
        raise
