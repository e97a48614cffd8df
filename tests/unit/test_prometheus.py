"""What Prometheus is told of calls."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from registry_admin.discovery.policy import Attempt, CallReport, Outcome
from registry_admin.discovery.prometheus import PrometheusHooks


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


def test_calls_attempts_and_time_are_counted_by_service_and_never_by_instance():
    registry = CollectorRegistry()
    hooks = PrometheusHooks(registry)
    made = (attempt(Outcome.NOT_SENT), attempt(Outcome.REPLIED, 200))
    for one in made:
        hooks.on_attempt(one)
    hooks.on_call(CallReport(service="api", method="GET", status=204, error="", duration=0.03, attempts=made))
    hooks.on_call(
        CallReport(service="api", method="GET", status=None, error="CallFailedError", duration=0.2, attempts=made)
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
