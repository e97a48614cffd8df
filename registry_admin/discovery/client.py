"""Calling a service by its name, synchronously: a thin shell over request, instances, policy and transport."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any, Self, TypedDict, Unpack

import requests

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.balancing import RoundRobin
from registry_admin.discovery.instances import Instances
from registry_admin.discovery.policy import AttemptError, Call
from registry_admin.discovery.reply import BODY_LIMIT
from registry_admin.discovery.request import CallRequest, Data, Params, build_request
from registry_admin.discovery.transport import SyncTransport
from registry_admin.errors import InvalidValueError

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


class Client:
    """What the synchronous and the asynchronous client share: the instances, the balancing and the limits."""

    def __init__(
        self, registry: ServiceRegistry | None = None, *, timeout: float = TIMEOUT_S, max_attempts: int = MAX_ATTEMPTS
    ) -> None:
        if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or max_attempts < 1:
            raise InvalidValueError("max_attempts", max_attempts, "give a whole number, at least 1")
        self.registry = registry or ServiceRegistry.from_env()
        self._timeout_s = timeout
        self._max_attempts = max_attempts
        self._instances = Instances(self.registry)
        self._balancing = RoundRobin()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.registry!r})"

    def _prepare(
        self, service: str, path: str, method: str, options: CallOptions
    ) -> tuple[CallRequest, Call[requests.Response]]:
        request = build_request(service, path, method=method, default_timeout=self._timeout_s, **options)
        call = Call[requests.Response](
            service,
            repeatable=request.repeatable,
            timeout_s=request.timeout_s,
            max_attempts=self._max_attempts,
            clock=time.monotonic,
        )
        return request, call


class SyncServiceDiscoveryClient(Client):
    """Calls services by name. Safe to share between threads, and to use after a fork.

    `timeout` (seconds, for a whole call), `max_attempts` (each on another instance) and `body_limit` (bytes of a reply)
    are defaults for every call; `verify` is a CA file for instances that speak HTTPS, or False.
    """

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
        self._transport = SyncTransport(verify=verify, body_limit=body_limit)

    def call_service(
        self, service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
    ) -> requests.Response:
        """Calls a healthy instance of `service` and returns its whole reply, whatever its status; see CallOptions.

        Raises InvalidValueError before anything is sent, NoSuchServiceError, NoHealthyInstanceError, CallFailedError
        (DeadlineExceededError where time ran out), and ConsulUnavailableError where Consul is away and no instance is
        known from before. A redirect is returned, not followed.
        """
        request, call = self._prepare(service, path, method, options)
        healthy = self._instances.healthy(service, tag=request.tag, timeout_s=call.remaining())
        for instance in call.instances(healthy, self._balancing.pick):
            try:
                call.replied(instance, self._transport.send(request, instance.url, deadline=call.deadline))
            except AttemptError as error:
                call.failed(instance, error)
        return call.result()

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


@functools.cache
def default_client() -> SyncServiceDiscoveryClient:
    """The process's client, made from the environment when it is first needed."""
    return SyncServiceDiscoveryClient()


def call_service(
    service: str, path: str = "/", *, method: str = "GET", **options: Unpack[CallOptions]
) -> requests.Response:
    """`SyncServiceDiscoveryClient.call_service` on the process's own client; also raises ConfigurationError."""
    return default_client().call_service(service, path, method=method, **options)
