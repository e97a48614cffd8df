"""OpenTelemetry for calls: a client span and a duration for each attempt, where the process has loaded OpenTelemetry.

Nothing is imported, and nothing is done, in a process that doesn't use it. Names of spans and attributes:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from registry_admin import __version__
from registry_admin.discovery.http.request import CallRequest
from registry_admin.discovery.propagation import received_trace

_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})


def call_tracer(request: CallRequest) -> CallTracer | None:
    """Returns what traces the attempts of a call, or None where OpenTelemetry isn't loaded."""
    return CallTracer(request) if "opentelemetry.trace" in sys.modules else None


class CallTracer:
    """Makes the spans of one call's attempts, as children of the span that is current when the call begins."""

    def __init__(self, request: CallRequest) -> None:
        from opentelemetry import context, propagate, trace  # noqa: PLC0415 - only where the process has loaded it

        self._request = request
        self._context = context.get_current()
        if not trace.get_current_span(self._context).get_span_context().is_valid:
            self._context = propagate.extract(received_trace(), context=self._context)

    def start_attempt(self, base_url: str, *, resend_count: int) -> AttemptSpan:
        """Starts the span of an attempt at the instance at `base_url`, the first with a `resend_count` of 0."""
        from opentelemetry import propagate, trace  # noqa: PLC0415

        method, parts = self._request.method, urlsplit(base_url)
        known = method in _KNOWN_METHODS
        attributes: dict[str, Any] = {
            "http.request.method": method if known else "_OTHER",
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }
        details: dict[str, Any] = {"url.full": base_url + self._request.target}
        if not known:
            details["http.request.method_original"] = method
        if resend_count:
            details["http.request.resend_count"] = resend_count
        span = _tracer().start_span(
            method if known else "HTTP",
            context=self._context,
            kind=trace.SpanKind.CLIENT,
            attributes=attributes | details,
        )
        headers: dict[str, str] = {}
        propagate.inject(headers, context=trace.set_span_in_context(span, self._context))
        return AttemptSpan(span, attributes, headers)


class AttemptSpan:
    """Span of one attempt. `headers` carry its context to the called service."""

    __slots__ = ("_attributes", "_span", "headers")

    def __init__(self, span: Any, attributes: dict[str, Any], headers: dict[str, str]) -> None:
        self._span = span
        self._attributes = attributes
        self.headers = headers

    def end_with_status(self, status: int, *, duration_s: float) -> None:
        """Ends it with the status of a reply; 4xx and 5xx are errors of a client span."""
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("network.protocol.version", "1.1")
        replied = {"http.response.status_code": status, "network.protocol.version": "1.1"}
        self._end(str(status) if status >= 400 else "", duration_s, replied)

    def end_with_error(self, error_type: str, *, duration_s: float) -> None:
        """Ends it without a usable reply; `error_type` is `timeout` or the name of an exception or an outcome."""
        self._end(error_type, duration_s, {})

    def end_cancelled(self, *, duration_s: float) -> None:
        """Ends it without a verdict: another instance replied first, or the caller gave up."""
        self._end("", duration_s, {})

    def _end(self, error_type: str, duration_s: float, measured: Mapping[str, Any]) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

        error = {"error.type": error_type} if error_type else {}
        if error_type:
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
        _durations().record(duration_s, {**self._attributes, **measured, **error})


@functools.cache
def _tracer() -> Any:
    from opentelemetry import trace  # noqa: PLC0415

    return trace.get_tracer("registry_admin", __version__)


@functools.cache
def _durations() -> Any:
    from opentelemetry import metrics  # noqa: PLC0415

    meter = metrics.get_meter("registry_admin", __version__)
    return meter.create_histogram("http.client.request.duration", unit="s", description="Duration of attempts.")
