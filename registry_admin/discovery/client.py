"""Calling a service by its name, synchronously: a thin shell over request, roster, policy and transport."""

from __future__ import annotations

import functools
import random
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TypedDict, Unpack

import requests

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery import balancing, context, reporting
from registry_admin.discovery.directory import Directory
from registry_admin.discovery.explanation import Explanation
from registry_admin.discovery.policy import Attempt, AttemptError, Call, CallReport, Rules, Sending
from registry_admin.discovery.reply import BODY_LIMIT
from registry_admin.discovery.request import CallRequest, Data, Params, build_request
from registry_admin.discovery.transport import Exchange, SyncTransport, first_readable
from registry_admin.errors import InvalidValueError, RegistryError

TIMEOUT_S = 10.0
MAX_ATTEMPTS = 3


class CallOptions(TypedDict, total=False):
    """What a call takes beside service, path and method.

    `params` go into the query; `data` is a form (a mapping or pairs) or raw text or bytes; `json` is anything that JSON
    can hold; `timeout` is in seconds, for all attempts together; `tag` narrows the instances.
    """

    params: Params | None
    headers: Mapping[str, str] | None
    data: Data | None
    json: Any
    timeout: float | None
    tag: str | None


class ClientOptions(TypedDict, total=False):
    """What a client takes beside the registry: limits and choices for all of its calls.

    `timeout` is in seconds, for a whole call; `max_attempts` are made on as many instances; `body_limit` is in bytes of
    a reply; `verify` is a CA file for instances that speak HTTPS, or False. `balancing` is "power-of-two" (of two
    instances the one that is less busy and quicker), "round-robin" or "random"; `same_node_first` prefers instances on
    the node of our Consul agent. What may be repeated and has no reply after `hedge_after` seconds (half of its time
    unless given) is also sent to a second instance. `on_attempt` and `on_call` are told of each attempt and each call,
    on the thread that made it. `report_calls` False: they aren't counted for Registry Admin's map; see reporting.
    """

    timeout: float
    max_attempts: int
    body_limit: int
    verify: bool | str
    balancing: str
    same_node_first: bool
    hedge_after: float | None
    on_attempt: Callable[[Attempt], None] | None
    on_call: Callable[[CallReport], None] | None
    report_calls: bool


class Client:
    """What the synchronous and the asynchronous client share: the instances, the balancing and the limits."""

    def __init__(self, registry: ServiceRegistry | None = None, **options: Unpack[ClientOptions]) -> None:
        if unknown := options.keys() - ClientOptions.__annotations__.keys():
            raise TypeError(f"{type(self).__name__} takes no {', '.join(sorted(unknown))}")
        _check_verify(options.get("verify", True))
        self.registry = registry or ServiceRegistry.from_env()
        self.directory = Directory.of(self.registry)
        self._timeout_s = options.get("timeout", TIMEOUT_S)
        self._same_node = options.get("same_node_first", False)
        self._rules = _rules(options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.registry!r})"

    def _prepare(
        self, service: str, path: str, method: str, options: CallOptions
    ) -> tuple[CallRequest, Call[requests.Response]]:
        request = build_request(service, path, method=method, default_timeout=self._timeout_s, **options)
        deadline = context.deadline()
        now = time.monotonic()
        call = Call[requests.Response](
            service,
            method=request.method,
            repeatable=request.repeatable,
            timeout_s=request.timeout_s if deadline is None else min(request.timeout_s, deadline - now),
            rules=self._rules,
            clock=time.monotonic,
            random_share=random.random,
        )
        return request, call

    def explain(self, service: str, *, tag: str | None = None) -> Explanation:
        """What is known of a service and its instances, who is ejected and why, and how old that is. Print it.

        Raises what a call raises that finds no instance list at all.
        """
        return Explanation.of(self.directory, service, tag=tag)


class SyncServiceDiscoveryClient(Client):
    """Calls services by name. Safe to share between threads, and to use after a fork. See ClientOptions."""

    def __init__(self, registry: ServiceRegistry | None = None, **options: Unpack[ClientOptions]) -> None:
        super().__init__(registry, **options)
        self._transport = SyncTransport(
            verify=options.get("verify", True), body_limit=options.get("body_limit", BODY_LIMIT)
        )

    def call_service(
        self, service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
    ) -> requests.Response:
        """Calls a healthy instance of `service` and returns its whole reply, whatever its status; see CallOptions.

        Raises InvalidValueError before anything is sent, NoSuchServiceError, NoHealthyInstanceError, CallFailedError
        (DeadlineExceededError where time ran out), and ConsulUnavailableError where Consul is away and no instance is
        known from before. A redirect is returned, not followed.
        """
        request, call = self._prepare(service, path, method, options)
        try:
            roster = self.directory.roster(request.service)
            group = roster.known_group(request.tag, same_node=self._same_node) or roster.group(
                request.tag, same_node=self._same_node, timeout_s=call.remaining()
            )
            call.among(group, roster.budget)
            propagation = context.Propagation.of(request.headers)
            while (sending := call.next()) is not None:
                if sending.pause_s:
                    time.sleep(sending.pause_s)
                self._attempt(call, request, sending, propagation)
            reply = call.result()
        except RegistryError as error:
            call.report(error)
            raise
        call.report()
        return reply

    def _attempt(
        self,
        call: Call[requests.Response],
        request: CallRequest,
        sending: Sending,
        propagation: context.Propagation,
    ) -> None:
        """One attempt, and others beside it while it stays silent; returns when none of them is under way."""
        flights: dict[Exchange, Sending] = {}
        try:
            hedge_at = self._launch(flights, call, request, sending, propagation)
            while flights and not call.is_over:
                ready = first_readable(list(flights), until=hedge_at or call.deadline)
                if ready is not None:
                    _land(call, ready, flights.pop(ready))
                elif hedge_at is not None:
                    beside = call.hedge()
                    hedge_at = self._launch(flights, call, request, beside, propagation) if beside else None
                else:  # time is up, and each of them says so
                    for exchange in list(flights):
                        _land(call, exchange, flights.pop(exchange))
        finally:
            for exchange, unheard in flights.items():
                exchange.abandon()
                call.dropped(unheard)

    def _launch(
        self,
        flights: dict[Exchange, Sending],
        call: Call[requests.Response],
        request: CallRequest,
        sending: Sending,
        propagation: context.Propagation,
    ) -> float | None:
        """Sends it; returns when to send one more beside it, if at all."""
        call.begun(sending)
        headers = propagation.headers(call.remaining())
        try:
            exchange = self._transport.start(request, sending.endpoint.url, deadline=call.deadline, headers=headers)
        except AttemptError as error:
            call.failed(sending, error)
            return None
        except BaseException:
            call.dropped(sending)
            raise
        flights[exchange] = sending
        return sending.hedge_at

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
        """Ends the idle connections; another call opens new ones."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _land(call: Call[requests.Response], exchange: Exchange, sending: Sending) -> None:
    """Reads a reply to its end."""
    try:
        reply = exchange.finish()
    except AttemptError as error:
        call.failed(sending, error)
    except BaseException:
        call.dropped(sending)
        raise
    else:
        call.replied(sending, reply)


def _check_verify(verify: object) -> None:
    """Here, and not with the first call: a CA file that can't be read is no instance's fault, and "" is not False."""
    if isinstance(verify, bool):
        return
    refusal = InvalidValueError("verify", verify, "give True, False, or the path of a file of CA certificates")
    if not isinstance(verify, str) or not verify:
        raise refusal
    try:
        ssl.create_default_context(cafile=verify)
    except (OSError, ValueError):
        raise refusal from None


def _rules(options: ClientOptions) -> Rules:
    attempts, hedge_after = options.get("max_attempts", MAX_ATTEMPTS), options.get("hedge_after")
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise InvalidValueError("max_attempts", attempts, "give a whole number, at least 1")
    if hedge_after is not None and not (isinstance(hedge_after, int | float) and hedge_after > 0):
        raise InvalidValueError("hedge_after", hedge_after, "give seconds above 0, or None")
    return Rules(
        balancing=balancing.named(options.get("balancing", "power-of-two")),
        max_attempts=attempts,
        hedge_after=hedge_after,
        on_attempt=options.get("on_attempt"),
        on_call=options.get("on_call"),
        count=reporting.counter() if options.get("report_calls", True) else None,
    )


@functools.cache
def default_client() -> SyncServiceDiscoveryClient:
    """The process's client, made from the environment when it is first needed."""
    return SyncServiceDiscoveryClient()


def call_service(
    service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
) -> requests.Response:
    """`SyncServiceDiscoveryClient.call_service` on the process's own client; also raises ConfigurationError."""
    return default_client().call_service(service, path, method=method, **options)
