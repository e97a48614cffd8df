"""Calling a service by its name, asynchronously: the same as `client`, with another transport."""

from __future__ import annotations

import functools
from typing import Self, Unpack

import requests

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.client import MAX_ATTEMPTS, TIMEOUT_S, CallOptions, Client
from registry_admin.discovery.policy import AttemptError
from registry_admin.discovery.reply import BODY_LIMIT
from registry_admin.discovery.transport_async import AsyncTransport


class ServiceDiscoveryClient(Client):
    """Calls services by name, on any event loop; takes what SyncServiceDiscoveryClient takes."""

    def __init__(
        self,
        registry: ServiceRegistry | None = None,
        *,
        timeout: float = TIMEOUT_S,
        max_attempts: int = MAX_ATTEMPTS,
        body_limit: int = BODY_LIMIT,
        verify: bool | str = True,
    ) -> None:
        super().__init__(registry, timeout=timeout, max_attempts=max_attempts)
        self._transport = AsyncTransport(verify=verify, body_limit=body_limit)

    async def call_service(
        self, service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
    ) -> requests.Response:
        """Calls a healthy instance and returns its whole reply; takes and raises what the synchronous one does."""
        request, call = self._prepare(service, path, method, options)
        healthy = await self._instances.healthy_async(service, tag=request.tag, timeout_s=call.remaining())
        for instance in call.instances(healthy, self._balancing.pick):
            try:
                call.replied(instance, await self._transport.send(request, instance.url, deadline=call.deadline))
            except AttemptError as error:
                call.failed(instance, error)
        return call.result()

    async def get(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with GET."""
        return await self.call_service(service, path, method="GET", **options)

    async def post(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with POST: sent once, unless it can't have been received."""
        return await self.call_service(service, path, method="POST", **options)

    async def put(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with PUT."""
        return await self.call_service(service, path, method="PUT", **options)

    async def patch(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with PATCH: sent once, unless it can't have been received."""
        return await self.call_service(service, path, method="PATCH", **options)

    async def delete(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with DELETE."""
        return await self.call_service(service, path, method="DELETE", **options)

    async def close(self) -> None:
        """Ends the connections of the running event loop; another call opens new ones."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


@functools.cache
def default_async_client() -> ServiceDiscoveryClient:
    """The process's client, made from the environment when it is first needed."""
    return ServiceDiscoveryClient()


async def acall_service(
    service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
) -> requests.Response:
    """`ServiceDiscoveryClient.call_service` on the process's own client; also raises ConfigurationError."""
    return await default_async_client().call_service(service, path, method=method, **options)
