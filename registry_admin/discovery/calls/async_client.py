"""Asynchronous calls to services by name."""

from __future__ import annotations

import asyncio
import functools
from typing import Self, Unpack, cast

import requests

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.calls.call_state import CallState, PlannedAttempt
from registry_admin.discovery.calls.client import BaseClient, record_response
from registry_admin.discovery.calls.options import CallOptions, ClientOptions
from registry_admin.discovery.http.async_response import AsyncStreamedResponse
from registry_admin.discovery.http.async_transport import AsyncTransport
from registry_admin.discovery.http.attempt_timer import AttemptTimer, OvertakenError
from registry_admin.discovery.http.request import CallRequest
from registry_admin.discovery.http.response import BODY_LIMIT
from registry_admin.discovery.propagation import CallHeaders
from registry_admin.errors import AttemptError, RegistryError


class ServiceDiscoveryClient(BaseClient):
    """Calls services by name, on any event loop, with the options of SyncServiceDiscoveryClient. See ClientOptions."""

    def __init__(self, registry: ServiceRegistry | None = None, **options: Unpack[ClientOptions]) -> None:
        super().__init__(registry, **options)
        self._transport = AsyncTransport(
            verify=options.get("verify", True), body_limit=options.get("body_limit", BODY_LIMIT)
        )

    async def call_service(
        self, service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
    ) -> requests.Response:
        """Calls a healthy instance and returns its whole response; takes and raises the same as the synchronous one."""
        request, call = self._prepare(service, path, method, options)
        try:
            call.check_deadline()
            service_cache = self.registry_cache.service_cache(request.service)
            group = service_cache.cached_group(
                request.tag, same_node=self._same_node
            ) or await service_cache.wait_for_group_async(
                request.tag, same_node=self._same_node, timeout_s=call.remaining_s
            )
            call.use(group, service_cache.retry_budget, service_cache.response_times)
            headers = CallHeaders.for_call(request.headers)
            while (planned := call.plan_attempt()) is not None:
                if planned.pause_s:
                    await asyncio.sleep(planned.pause_s)
                await _HedgedAttempt(self._transport, call, request, planned, headers).run()
            response = call.result()
        except RegistryError as error:
            call.report(error)
            raise
        call.report()
        if request.is_streamed:
            call.response = None  # or it would keep itself alive, and its connection with it
        return response

    async def stream(
        self, service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
    ) -> AsyncStreamedResponse:
        """`call_service` with `stream=True`: `async with await client.stream("quotes", "/history") as response:`."""
        options["stream"] = True
        response = await self.call_service(service, path, method=method, **options)
        return cast("AsyncStreamedResponse", response)

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
        """Closes the connections of the running event loop; a later call opens new ones."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


class _HedgedAttempt:
    """Attempt that is hedged while it has no response.

    The hedge runs as a task of its own and records its result in `call`. A final one ends the first attempt.
    """

    __slots__ = ("_call", "_headers", "_hedge", "_planned", "_request", "_timer", "_transport")

    def __init__(
        self,
        transport: AsyncTransport,
        call: CallState[requests.Response],
        request: CallRequest,
        planned: PlannedAttempt,
        headers: CallHeaders,
    ) -> None:
        self._transport = transport
        self._call = call
        self._request = request
        self._planned = planned
        self._headers = headers
        self._hedge: asyncio.Task[None] | None = None
        self._timer: AttemptTimer | None = None

    async def run(self) -> None:
        """Makes the attempt and records its result in the call; returns when nothing is under way any more."""
        call, planned = self._call, self._planned
        pool = self._transport.running_pool() or await self._transport.open_pool()
        call.start_attempt(planned)
        timer = self._timer = AttemptTimer(
            pool.timer, deadline=call.deadline, alarm_at=planned.hedge_at, on_alarm=self._start_hedge
        )
        try:
            try:
                headers = self._headers.for_attempt(call.remaining_s, planned.trace_headers, planned.endpoint.headers)
                response = await self._transport.send(
                    self._request, planned.endpoint.url, headers=headers, pool=pool, timer=timer
                )
            except AttemptError as error:
                call.record_failure(planned, error)
            except OvertakenError:
                call.cancel_attempt(planned)
            except BaseException:
                call.cancel_attempt(planned)
                raise
            else:
                record_response(call, planned, response)
            if self._hedge is not None and not call.is_over:
                await self._hedge
        finally:
            timer.close()
            if self._hedge is not None:
                self._hedge.cancel()

    def _start_hedge(self) -> None:
        hedge = self._call.plan_hedge()
        if hedge is not None:
            attempt = _HedgedAttempt(self._transport, self._call, self._request, hedge, self._headers)
            self._hedge = asyncio.get_running_loop().create_task(attempt.run())
            self._hedge.add_done_callback(self._on_hedge_done)

    def _on_hedge_done(self, _hedge: asyncio.Task[None]) -> None:
        if self._call.is_over and self._timer is not None:
            self._timer.end(OvertakenError())


@functools.cache
def default_async_client() -> ServiceDiscoveryClient:
    """Returns the process's client, made from the environment when it is first needed."""
    return ServiceDiscoveryClient()


async def acall_service(
    service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
) -> requests.Response:
    """`ServiceDiscoveryClient.call_service` on the process's own client; also raises ConfigurationError."""
    return await default_async_client().call_service(service, path, method=method, **options)
