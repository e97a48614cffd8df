"""Prometheus metrics of calls."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from registry_admin.discovery.calls.policy import CallReport
from registry_admin.discovery.calls.prometheus import PrometheusHooks
from registry_admin.errors import Attempt, Outcome


def attempt(outcome: Outcome, status: int | None = None) -> Attempt:
    return Attempt(
        service="api",
        instance="api-1",
        url="http://10.0.0.1:80",
        outcome=outcome,
        detail="",
        duration=0.1,
        status=status,
    )


def test_prometheus_hooks_count_calls_attempts_and_time_by_service_not_by_instance():
    registry = CollectorRegistry()
    hooks = PrometheusHooks(registry)
    attempts = (attempt(Outcome.NOT_SENT), attempt(Outcome.REPLIED, 200))
    for made in attempts:
        hooks.on_attempt(made)
    hooks.on_call(CallReport(service="api", method="GET", status=204, error="", duration=0.03, attempts=attempts))
    hooks.on_call(
        CallReport(service="api", method="GET", status=None, error="CallFailedError", duration=0.2, attempts=attempts)
    )

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"service": "api", **labels})

    assert value("registry_calls_total", method="GET", result="2xx") == 1
    assert value("registry_calls_total", method="GET", result="CallFailedError") == 1
    assert value("registry_call_attempts_total", outcome="not sent") == 1
    assert value("registry_call_attempts_total", outcome="2xx") == 1
    assert value("registry_call_seconds_count") == 2
    assert value("registry_call_seconds_bucket", le="0.05") == 1
    assert b"api-1" not in generate_latest(registry)
    assert b"10.0.0.1" not in generate_latest(registry)
