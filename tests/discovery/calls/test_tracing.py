"""Spans of calls in a process that has loaded OpenTelemetry, with its own SDK."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from registry_admin.consul import CheckKind, CheckSpec, ServiceRegistry, ServiceSpec
from registry_admin.discovery.propagation import propagated
from registry_admin.errors import CallFailedError, NoSuchServiceError
from tests.parts import HttpService, refusing_port, wait_until
from tests.parts.any_client import AnyClient

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="session")
def telemetry() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """The process's providers, which can be set once only."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return exporter, reader


@pytest.fixture
def spans(telemetry) -> InMemorySpanExporter:
    telemetry[0].clear()
    return telemetry[0]


@pytest.fixture(params=["sync", "async", "adapter"])
def client(request: pytest.FixtureRequest, registry: ServiceRegistry) -> Iterator[AnyClient]:
    client = AnyClient(request.param, registry)
    yield client
    client.close()


def register(registry: ServiceRegistry, port: int, instance_id: str = "") -> None:
    check = CheckSpec(kind=CheckKind.NONE)
    registry.register(ServiceSpec(name="api", address="127.0.0.1", port=port, id=instance_id, check=check))


def recorded(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.kind is SpanKind.CLIENT]


def test_call_makes_a_client_span_whose_context_the_service_receives(client, registry, http_service, spans):
    service: HttpService = http_service(status=404)
    register(registry, service.port)
    with trace.get_tracer("test").start_as_current_span("outer") as outer:
        wait_until(lambda: client.get("api", params={"q": "1"}).status_code == 404)
    span = recorded(spans)[-1]
    assert (span.name, span.kind, span.status.status_code) == ("GET", SpanKind.CLIENT, StatusCode.ERROR)
    assert span.parent is not None
    assert span.parent.span_id == outer.get_span_context().span_id
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": service.port,
        "url.full": f"{service.url}/?q=1",
        "http.response.status_code": 404,
        "network.protocol.version": "1.1",
        "error.type": "404",
    }
    context = span.get_span_context()
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert service.requests[-1].headers["traceparent"] == expected


def test_call_without_a_current_span_continues_the_trace_of_the_request(client, registry, http_service, spans):
    service: HttpService = http_service()
    register(registry, service.port)
    with propagated({"traceparent": TRACE, "tracestate": "a=b"}):
        wait_until(lambda: client.get("api").status_code == 200)
    span = recorded(spans)[-1]
    assert f"{span.get_span_context().trace_id:032x}" == TRACE[3:35]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == TRACE[36:52]
    assert service.requests[-1].headers["tracestate"] == "a=b"


def attempts_of_failed_call(client: AnyClient, spans: InMemorySpanExporter) -> list[ReadableSpan]:
    spans.clear()
    with pytest.raises((CallFailedError, NoSuchServiceError)):
        client.get("api")
    return recorded(spans)


def test_each_attempt_has_a_span_and_counts_its_resends(client, registry, spans):
    for number in range(2):
        register(registry, refusing_port(), f"api-{number}")
    wait_until(lambda: len(attempts_of_failed_call(client, spans)) == 2)
    attributes: list[Any] = [span.attributes for span in recorded(spans)]
    assert [entry.get("http.request.resend_count") for entry in attributes] == [None, 1]
    assert all(entry["error.type"] and "http.response.status_code" not in entry for entry in attributes)
    assert all(span.status.status_code is StatusCode.ERROR for span in recorded(spans))


def test_attempts_are_measured_in_seconds(client, registry, http_service, telemetry):
    def slow(handler: Any, request: Any) -> None:
        time.sleep(0.1)
        service.plain_answer(handler, request)

    service: HttpService = http_service(answer=slow)
    register(registry, service.port)
    wait_until(lambda: client.get("api").status_code == 200)
    data = telemetry[1].get_metrics_data()
    points = [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if (metric.name, metric.unit) == ("http.client.request.duration", "s")
        for point in metric.data.data_points
        if point.attributes.get("server.port") == service.port
    ]
    assert [point.attributes["http.response.status_code"] for point in points] == [200]
    assert 0.1 <= points[0].max < 5


@pytest.mark.system
def test_process_without_opentelemetry_never_loads_it(registry, http_service):
    service: HttpService = http_service()
    register(registry, service.port)
    script = (
        "import sys; from registry_admin.discovery import call_service; "
        "assert call_service('api').status_code == 200; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    config = registry.api.config
    environment = {"CONSUL_HTTP_ADDR": f"{config.host}:{config.port}", "PATH": ""}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)
    assert "traceparent" not in service.requests[-1].headers
