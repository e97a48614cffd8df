"""Propagation of a request's ID, trace and deadline to the calls that are made for it."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery import wsgi
from registry_admin.discovery.asgi import PropagateContext
from registry_admin.discovery.propagation import CallHeaders, current_deadline, propagated

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SENT = {"X-Request-ID": "card-7", "traceparent": TRACE, "tracestate": "a=b", "X-Request-Timeout-Ms": "1500"}


def call_headers(caller_headers: dict[str, str] | None = None, *, remaining_s: float = 2.5) -> dict[str, str]:
    return CallHeaders.for_call(caller_headers or {}).for_attempt(remaining_s)


def test_call_without_a_request_gets_a_new_id_and_no_trace():
    first, second = call_headers(), call_headers()
    assert first.keys() == {"X-Request-ID", "X-Request-Timeout-Ms"}, (
        "a trace that nobody made would switch sampling off"
    )
    assert first["X-Request-Timeout-Ms"] == "2500"
    assert re.fullmatch("[0-9a-f]{32}", first["X-Request-ID"])
    assert first["X-Request-ID"] != second["X-Request-ID"]
    assert current_deadline() is None


def test_call_within_a_request_carries_its_id_and_trace_untouched():
    with propagated(SENT):
        headers = call_headers()
    assert {name: headers[name] for name in ("X-Request-ID", "traceparent", "tracestate")} == {
        name: SENT[name] for name in ("X-Request-ID", "traceparent", "tracestate")
    }


def test_trace_of_an_attempt_replaces_that_of_the_request():
    span = {"traceparent": TRACE.replace("b7ad", "aaaa"), "baggage": "a=1"}
    with propagated(SENT):
        headers = CallHeaders.for_call({}).for_attempt(1.0, span)
        own = CallHeaders.for_call({"Traceparent": "own"}).for_attempt(1.0, span)
    assert (headers["traceparent"], headers["baggage"]) == (span["traceparent"], "a=1")
    assert "tracestate" not in headers, "it belongs to another parent"
    assert "traceparent" not in own


def test_headers_of_the_caller_win_in_any_case():
    with propagated(SENT):
        headers = call_headers({"x-request-id": "mine", "Traceparent": "own"})
    assert headers.keys() == {"X-Request-Timeout-Ms"}


def test_trace_state_of_the_caller_is_not_sent_twice():
    with propagated(SENT):
        headers = call_headers({"Tracestate": "mine=1"})
    assert "traceparent" in headers
    assert "tracestate" not in {name.lower() for name in headers}


@pytest.mark.parametrize(
    ("value", "is_passed_on"),
    [
        (TRACE, True),
        (TRACE[:-2] + "fe", True),  # flags that version 00 doesn't know
        ("01" + TRACE[2:] + "-more", True),  # a later version's
        (TRACE + "-more", False),
        (TRACE.upper(), False),
        ("ff" + TRACE[2:], False),
        # pragma: allowlist nextline secret - an example of W3C's
        (TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), False),
        # pragma: allowlist nextline secret - an example of W3C's
        (TRACE.replace("b7ad6b7169203331", "0" * 16), False),
        ("01" + TRACE[2:] + "-" + "x" * 1000, False),
        ("01" + TRACE[2:] + "-x\r\nX-Evil: 1", False),
    ],
)
def test_trace_is_passed_on_only_if_it_is_well_formed(value, is_passed_on):
    with propagated({"traceparent": value, "tracestate": "a=b"}):
        headers = call_headers()
    assert headers.get("traceparent") == (value if is_passed_on else None)
    assert ("tracestate" in headers) is is_passed_on


def test_attempts_of_a_call_share_their_ids_but_not_their_time():
    headers = CallHeaders.for_call({})
    early, late = headers.for_attempt(2.0), headers.for_attempt(0.0001)
    assert (early.pop("X-Request-Timeout-Ms"), late.pop("X-Request-Timeout-Ms")) == ("2000", "1")
    assert early == late


def test_current_deadline_ends_with_the_request():
    before = time.monotonic()
    with propagated(SENT):
        deadline = current_deadline()
        assert deadline is not None
        assert before + 1.5 <= deadline <= time.monotonic() + 1.5
    assert current_deadline() is None


def test_task_that_outlives_its_request_keeps_id_and_trace_but_no_deadline():
    async def serve() -> tuple[dict[str, str], float | None]:
        async def work() -> tuple[dict[str, str], float | None]:
            await over.wait()
            return call_headers(), current_deadline()

        with propagated(SENT):
            task = asyncio.create_task(work())
            assert current_deadline() is not None
        over.set()
        return await asyncio.wait_for(task, 5)

    over = asyncio.Event()
    headers, deadline = asyncio.run(serve())
    assert deadline is None
    assert (headers["X-Request-ID"], headers["traceparent"]) == ("card-7", TRACE)


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1e3", "soon", "9" * 13, "٣", " 1", "0x10"])
def test_malformed_timeout_header_sets_no_deadline(value):
    with propagated({"X-Request-Timeout-Ms": value}):
        assert current_deadline() is None


@given(st.dictionaries(st.sampled_from(list(SENT)), st.text(max_size=200)))
def test_propagated_headers_are_well_formed_whatever_the_request_carries(headers):
    with propagated(headers):
        sent = call_headers()
    assert sent.get("traceparent", TRACE) == TRACE or re.fullmatch("[0-9a-f]{2}-[!-~]+", sent["traceparent"])
    assert re.fullmatch(r"[\w.:/+=@-]{1,128}", sent["X-Request-ID"], re.ASCII)
    assert all(value.isascii() and value.isprintable() for value in sent.values())


def test_wsgi_middleware_propagates_the_headers_of_a_request():
    calls = []

    def app(environ, start_response):
        calls.append((call_headers()["X-Request-ID"], current_deadline() is not None))
        return [b"served"]

    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in SENT.items()}
    assert wsgi.WSGIPropagateContext(app)(environ, None) == [b"served"]
    assert wsgi.WSGIPropagateContext(app)({"REQUEST_METHOD": "GET"}, None) == [b"served"]
    assert calls[0] == ("card-7", True)
    assert calls[1][1] is False


def test_asgi_middleware_propagates_http_requests_only():
    calls = []

    async def app(scope, receive, send):
        calls.append((call_headers()["X-Request-ID"], current_deadline() is not None))

    headers = [(name.lower().encode(), value.encode()) for name, value in SENT.items()]
    asyncio.run(PropagateContext(app)({"type": "http", "headers": headers}, None, None))
    asyncio.run(PropagateContext(app)({"type": "lifespan"}, None, None))
    assert calls[0] == ("card-7", True)
    assert calls[1][1] is False
