"""Limits, choices and hooks of a client, which all of its calls follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry_admin.discovery.instances.load_balancing import LoadBalancer
from registry_admin.errors import Attempt

RecordCall = Callable[[str, float, bool], None]  # the called service, the call's seconds, and whether it failed


@dataclass(frozen=True, kw_only=True)
class CallReport:
    """Result of a whole call, for the `on_call` hook. `error` is the type's name of the exception that was raised.

    `attempts` are those that were sent, without cancelled ones; `duration` is in seconds.
    """

    service: str
    method: str
    status: int | None
    error: str
    duration: float
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, kw_only=True)
class CallPolicy:
    """Limits, choices and hooks of a client.

    `hedge_after` is in seconds; None means when a response is late by what this service has shown so far.
    """

    load_balancer: LoadBalancer
    max_attempts: int
    hedge: bool = True
    hedge_after: float | None = None
    on_attempt: Callable[[Attempt], None] | None = None
    on_call: Callable[[CallReport], None] | None = None
    record_call: RecordCall | None = None
