"""Endpoints of a made-up service for tests that need no sockets."""

from __future__ import annotations

from registry_admin.consul import Health, ServiceInstance
from registry_admin.discovery.instances.outlier_detection import (
    CONSECUTIVE_FAILURES,
    Endpoint,
    FailureKind,
    OutlierDetector,
)


def make_endpoints(*weights: int, service: str = "api", warm: bool = True) -> list[Endpoint]:
    """Returns the endpoints of one service, one for each weight."""
    outlier_detector = OutlierDetector()
    endpoints = [
        Endpoint(
            ServiceInstance(
                service=service,
                id=f"{service}-{number}",
                address="10.0.0.1",
                port=80,
                weight=weight,
                health=Health.PASSING,
            ),
            outlier_detector,
            now=0.0,
            warm=warm,
        )
        for number, weight in enumerate(weights)
    ]
    outlier_detector.set_endpoints(endpoints)
    return endpoints


def fail(
    endpoint: Endpoint,
    now: float,
    *,
    times: int = CONSECUTIVE_FAILURES,
    kind: FailureKind = FailureKind.NO_REPLY,
    reason: str = "it reset the connection",
) -> None:
    """Makes calls to the endpoint that fail, by default enough to eject it."""
    for _ in range(times):
        endpoint.start_attempt(now)
        endpoint.record_failure(now, duration_s=0.001, kind=kind, reason=reason)


def succeed(endpoint: Endpoint, now: float, *, duration_s: float = 0.001) -> None:
    """Makes one call to the endpoint that succeeds."""
    endpoint.start_attempt(now)
    endpoint.record_success(now, duration_s=duration_s)


def is_ejected(endpoint: Endpoint, now: float) -> bool:
    """Returns whether calls avoid the endpoint now."""
    return now < endpoint.ejected_until
