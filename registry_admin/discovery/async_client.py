"""Calling a service by its name, asynchronously: the same as `client`, with another transport."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Self, Unpack

import requests

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery import context
from registry_admin.discovery.client import CallOptions, Client, ClientOptions
from registry_admin.discovery.policy import AttemptError, Call, Outcome, Sending
from registry_admin.discovery.reply import BODY_LIMIT
from registry_admin.discovery.request import CallRequest
from registry_admin.discovery.transport_async import AsyncTransport
from registry_admin.errors import RegistryError


class ServiceDiscoveryClient(Client):
    """Calls services by name, on any event loop; takes what SyncServiceDiscoveryClient takes. See ClientOptions."""

    def __init__(self, registry: ServiceRegistry | None = None, **options: Unpack[ClientOptions]) -> None:
        super().__init__(registry, **options)
        self._transport = AsyncTransport(
            verify=options.get("verify", True), body_limit=options.get("body_limit", BODY_LIMIT)
        )

    async def call_service(
        self, service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
    ) -> requests.Response:
        """Calls a healthy instance and returns its whole reply; takes and raises what the synchronous one does."""
        request, call = self._prepare(service, path, method, options)
        try:
            roster = self.directory.roster(request.service)
            group = roster.known_group(request.tag, same_node=self._same_node) or await roster.group_async(
                request.tag, same_node=self._same_node, timeout_s=call.remaining()
            )
            call.among(group, roster.budget)
            propagation = context.Propagation.of(request.headers)
            while (sending := call.next()) is not None:
                if sending.pause_s:
                    await asyncio.sleep(sending.pause_s)
                await _Flight(self._transport, call, request, sending, propagation).land()
            reply = call.result()
        except RegistryError as error:
            call.report(error)
            raise
        call.report()
        return reply

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


class _Flight:
    """One attempt under way, and another one beside it where it stays silent.

    The other runs as a task of its own, and what comes of it is in `call`; if that is final, this one's time is up.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        call: Call[requests.Response],
        request: CallRequest,
        sending: Sending,
        propagation: context.Propagation,
    ) -> None:
        self._transport = transport
        self._call = call
        self._request = request
        self._sending = sending
        self._propagation = propagation
        self._beside: asyncio.Task[None] | None = None

    async def land(self) -> None:
        """Sends, and returns when nothing is under way any more; the call knows what came of it."""
        call, sending = self._call, self._sending
        call.begun(sending)
        timer = None
        if sending.hedge_at is not None:
            timer = asyncio.get_running_loop().call_later(sending.hedge_at - sending.began, self._hedge)
        try:
            await self._send()
            if self._beside is not None and not call.is_over:
                await self._beside
        finally:
            if timer is not None:
                timer.cancel()
            if self._beside is not None:
                self._beside.cancel()

    async def _send(self) -> None:
        call, sending = self._call, self._sending
        left = call.remaining()
        try:
            async with asyncio.timeout(left) as self._time:
                headers = self._propagation.headers(left)
                reply = await self._transport.send(self._request, sending.endpoint.url, headers=headers)
        except AttemptError as error:
            call.failed(sending, error)
        except TimeoutError:
            if call.is_over:
                call.dropped(sending)
            else:
                call.failed(sending, AttemptError(Outcome.MAYBE_RECEIVED, "no answer in time"))
        except BaseException:
            call.dropped(sending)
            raise
        else:
            call.replied(sending, reply)

    def _hedge(self) -> None:
        other = self._call.hedge()
        if other is not None:
            flight = _Flight(self._transport, self._call, self._request, other, self._propagation)
            self._beside = asyncio.get_running_loop().create_task(flight.land())
            self._beside.add_done_callback(self._overtake)

    def _overtake(self, _beside: asyncio.Task[None]) -> None:
        if self._call.is_over and self._time.when() is not None and not self._time.expired():
            with contextlib.suppress(RuntimeError):  # it ended by itself just now
                self._time.reschedule(0)


@functools.cache
def default_async_client() -> ServiceDiscoveryClient:
    """The process's client, made from the environment when it is first needed."""
    return ServiceDiscoveryClient()


async def acall_service(
    service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
) -> requests.Response:
    """`ServiceDiscoveryClient.call_service` on the process's own client; also raises ConfigurationError."""
    return await default_async_client().call_service(service, path, method=method, **options)
