"""Synchronous calls to services by name."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Iterable
from typing import Self, Unpack

import requests

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.consul.types import ServiceInstance
from registry_admin.discovery.calls import reporting
from registry_admin.discovery.calls.call_state import CallState, PlannedAttempt
from registry_admin.discovery.calls.options import TIMEOUT_S, CallOptions, ClientOptions, build_policy, check_verify
from registry_admin.discovery.calls.pick import FAILURES, Pick, check_failures
from registry_admin.discovery.calls.tracing import call_tracer
from registry_admin.discovery.http.request import CallRequest, build_request, check_timeout
from registry_admin.discovery.http.response import BODY_LIMIT
from registry_admin.discovery.http.streamed_response import UnreadResponse
from registry_admin.discovery.http.sync_transport import Exchange, SyncTransport, wait_first_readable
from registry_admin.discovery.instances.explain import Explanation, explain
from registry_admin.discovery.instances.registry_cache import RegistryCache
from registry_admin.discovery.propagation import CallHeaders, current_deadline
from registry_admin.errors import AttemptError, RegistryError


class BaseClient:
    """Base of the synchronous and the asynchronous client: instances, policy and time limit."""

    def __init__(self, registry: ServiceRegistry | None = None, **options: Unpack[ClientOptions]) -> None:
        if unknown := options.keys() - ClientOptions.__annotations__.keys():
            raise TypeError(f"{type(self).__name__} takes no {', '.join(sorted(unknown))}")
        check_verify(options.get("verify", True))
        self.registry = registry or ServiceRegistry.from_env()
        self.registry_cache = RegistryCache.for_registry(self.registry)
        self._timeout_s = options.get("timeout", TIMEOUT_S)
        self._same_node = options.get("same_node_first", False)
        recorder = reporting.call_recorder(_make_report_client) if options.get("report_calls", True) else None
        self._policy = build_policy(options, record_call=recorder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.registry!r})"

    def _prepare(
        self, service: str, path: str, method: str, options: CallOptions
    ) -> tuple[CallRequest, CallState[requests.Response]]:
        request = build_request(service, path, method=method, default_timeout=self._timeout_s, **options)
        deadline = current_deadline()
        now = time.monotonic()
        call: CallState[requests.Response] = CallState(
            service,
            method=request.method,
            repeatable=request.repeatable,
            hedged=request.hedged,
            timeout_s=request.timeout_s if deadline is None else min(request.timeout_s, deadline - now),
            policy=self._policy,
            clock=time.monotonic,
            random_share=random.random,
            tracer=call_tracer(request),
        )
        return request, call

    def pick(
        self,
        service: str,
        *,
        tag: str | None = None,
        timeout: float | None = None,
        failures: type[BaseException] | Iterable[type[BaseException]] = FAILURES,
    ) -> Pick:
        """Picks a healthy instance for another client: `with client.pick("postgres") as instance:`, or `async with`.

        `failures`: exceptions of the block that count against the instance; by default those of sockets. `timeout` is
        in seconds, for finding an instance. Raises the errors of a call that finds none.
        """
        return Pick(
            self.registry_cache.service_cache,
            service,
            tag=tag,
            timeout_s=check_timeout(self._timeout_s if timeout is None else timeout),
            same_node=self._same_node,
            failures=check_failures(failures),
            load_balancer=self._policy.load_balancer,
        )

    async def apick(
        self,
        service: str,
        *,
        tag: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the same signature as `pick`
        failures: type[BaseException] | Iterable[type[BaseException]] = FAILURES,
    ) -> Pick:
        """`pick` without blocking the event loop: `with await client.apick("postgres") as instance:`."""
        pick = self.pick(service, tag=tag, timeout=timeout, failures=failures)
        await pick.find_group()
        return pick

    def instances(self, service: str, *, tag: str | None = None, timeout: float | None = None) -> list[ServiceInstance]:
        """Returns the healthy instances, ejected ones last, for a driver that takes several addresses.

        Raises the errors of a call that finds no instance.
        """
        return self.pick(service, tag=tag, timeout=timeout).instances()

    async def ainstances(
        self,
        service: str,
        *,
        tag: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the same signature as `instances`
    ) -> list[ServiceInstance]:
        """`instances` without blocking the event loop."""
        return await self.pick(service, tag=tag, timeout=timeout).find_instances()

    def explain(self, service: str, *, tag: str | None = None) -> Explanation:
        """Returns the known instances of a service, the ejected ones with the reason, and the age of that; print it.

        Raises the errors of a call that finds no instance list at all.
        """
        return explain(self.registry_cache, service, tag=tag)


class SyncServiceDiscoveryClient(BaseClient):
    """Calls services by name. Threads may share it, and it may be used after a fork. See ClientOptions."""

    def __init__(self, registry: ServiceRegistry | None = None, **options: Unpack[ClientOptions]) -> None:
        super().__init__(registry, **options)
        self._transport = SyncTransport(
            verify=options.get("verify", True), body_limit=options.get("body_limit", BODY_LIMIT)
        )

    def call_service(
        self, service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
    ) -> requests.Response:
        """Calls a healthy instance of `service` and returns its whole response, whatever the status; see CallOptions.

        Raises InvalidValueError before anything is sent, NoSuchServiceError, NoHealthyInstanceError, CallFailedError
        (DeadlineExceededError where time ran out), and ConsulUnavailableError where Consul is away and no instance is
        known from before. A redirect is returned, not followed.
        """
        request, call = self._prepare(service, path, method, options)
        try:
            call.check_deadline()
            service_cache = self.registry_cache.service_cache(request.service)
            group = service_cache.cached_group(request.tag, same_node=self._same_node) or service_cache.wait_for_group(
                request.tag, same_node=self._same_node, timeout_s=call.remaining_s
            )
            call.use(group, service_cache.retry_budget, service_cache.response_times)
            headers = CallHeaders.for_call(request.headers)
            while (planned := call.plan_attempt()) is not None:
                if planned.pause_s:
                    time.sleep(planned.pause_s)
                self._attempt(call, request, planned, headers)
            response = call.result()
        except RegistryError as error:
            call.report(error)
            raise
        call.report()
        if request.is_streamed:
            call.response = None  # or it would keep itself alive, and its connection with it
        return response

    def _attempt(
        self,
        call: CallState[requests.Response],
        request: CallRequest,
        planned: PlannedAttempt,
        headers: CallHeaders,
    ) -> None:
        """Makes one attempt, with hedges while it has no response; returns when none of them is under way."""
        in_flight: dict[Exchange, PlannedAttempt] = {}
        try:
            hedge_at = self._send(in_flight, call, request, planned, headers)
            while in_flight and not call.is_over:
                ready = wait_first_readable(list(in_flight), until=hedge_at or call.deadline)
                if ready is not None:
                    _receive(call, ready, in_flight)
                elif hedge_at is not None:
                    hedge = call.plan_hedge()
                    hedge_at = self._send(in_flight, call, request, hedge, headers) if hedge else None
                else:  # the deadline has come: reading raises it for each exchange
                    for exchange in list(in_flight):
                        _receive(call, exchange, in_flight)
        finally:
            for exchange, unanswered in in_flight.items():
                exchange.close()
                call.cancel_attempt(unanswered)

    def _send(
        self,
        in_flight: dict[Exchange, PlannedAttempt],
        call: CallState[requests.Response],
        request: CallRequest,
        planned: PlannedAttempt,
        headers: CallHeaders,
    ) -> float | None:
        """Sends an attempt and adds it to `in_flight`; returns when to hedge it, or None."""
        call.start_attempt(planned)
        attempt_headers = headers.for_attempt(call.remaining_s, planned.trace_headers, planned.endpoint.headers)
        try:
            exchange = self._transport.start(
                request, planned.endpoint.url, deadline=call.deadline, headers=attempt_headers
            )
        except AttemptError as error:
            call.record_failure(planned, error)
            return None
        except BaseException:
            call.cancel_attempt(planned)
            raise
        in_flight[exchange] = planned
        return planned.hedge_at

    def stream(
        self, service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
    ) -> requests.Response:
        """`call_service` with `stream=True`: `with client.stream("quotes", "/history") as response:`."""
        options["stream"] = True
        return self.call_service(service, path, method=method, **options)

    def get(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with GET."""
        return self.call_service(service, path, method="GET", **options)

    def post(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with POST: sent once, unless it can't have been received."""
        return self.call_service(service, path, method="POST", **options)

    def put(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with PUT."""
        return self.call_service(service, path, method="PUT", **options)

    def patch(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with PATCH: sent once, unless it can't have been received."""
        return self.call_service(service, path, method="PATCH", **options)

    def delete(self, service: str, path: str = "/", **options: Unpack[CallOptions]) -> requests.Response:
        """`call_service` with DELETE."""
        return self.call_service(service, path, method="DELETE", **options)

    def close(self) -> None:
        """Closes the idle connections; a later call opens new ones."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _receive(call: CallState[requests.Response], exchange: Exchange, in_flight: dict[Exchange, PlannedAttempt]) -> None:
    """Reads a response and records it; the exchange stays in flight if its request had to be sent again."""
    planned = in_flight.pop(exchange)
    try:
        response = exchange.read_response()
    except AttemptError as error:
        call.record_failure(planned, error)
    except BaseException:
        call.cancel_attempt(planned)
        raise
    else:
        if response is None:
            in_flight[exchange] = planned
            return
        record_response(call, planned, response)


def record_response(call: CallState[requests.Response], planned: PlannedAttempt, response: requests.Response) -> None:
    """Records a response, and follows the body of a streamed one to its end."""
    if not isinstance(response, UnreadResponse):
        call.record_response(planned, response)
        return
    call.record_response(planned, response, is_whole=False)
    if call.response is not response:  # another one was first, or it came from another service's instance
        response.close()
        return
    response.end.on_error = functools.partial(call.stream_error, planned)
    if response.status_code < 500:
        response.end.on_close = functools.partial(call.end_stream, planned)


def _make_report_client() -> SyncServiceDiscoveryClient:
    return SyncServiceDiscoveryClient(report_calls=False)


@functools.cache
def default_client() -> SyncServiceDiscoveryClient:
    """Returns the process's client, made from the environment when it is first needed."""
    return SyncServiceDiscoveryClient()


def call_service(
    service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
) -> requests.Response:
    """`SyncServiceDiscoveryClient.call_service` on the process's own client; also raises ConfigurationError."""
    return default_client().call_service(service, path, method=method, **options)
