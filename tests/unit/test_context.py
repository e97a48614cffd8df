"""What a request hands on to the calls that are made for it."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.asgi import PropagateContext
from registry_admin.discovery.context import Propagation, deadline, propagated

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_FORM = r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]"
SENT = {"X-Request-ID": "card-7", "traceparent": TRACE, "tracestate": "a=b", "X-Request-Timeout-Ms": "1500"}


def handed_on(**given_headers: str) -> dict[str, str]:
    return Propagation.of(given_headers).headers(2.5)


def test_without_a_request_everything_is_made_up_and_another_call_gets_other_ids():
    first, second = handed_on(), handed_on()
    assert first["X-Request-Timeout-Ms"] == "2500"
    assert re.fullmatch(TRACE_FORM, first["traceparent"])
    assert re.fullmatch("[0-9a-f]{32}", first["X-Request-ID"])
    assert first["X-Request-ID"] != second["X-Request-ID"]
    assert first["traceparent"] != second["traceparent"]
    assert deadline() is None


def test_what_a_request_carried_is_handed_on_with_a_parent_of_its_own():
    with propagated(SENT):
        found = handed_on()
    assert (found["X-Request-ID"], found["tracestate"]) == ("card-7", "a=b")
    assert found["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert found["traceparent"].endswith("-01")
    assert "b7ad6b7169203331" not in found["traceparent"]


def test_what_the_caller_gives_stays_in_any_spelling():
    with propagated(SENT):
        found = Propagation.of({"x-request-id": "mine", "Traceparent": "own"}).headers(1)
    assert found.keys() == {"X-Request-Timeout-Ms"}


def test_a_trace_state_is_sent_once():
    with propagated(SENT):
        assert "tracestate" not in {name.lower() for name in Propagation.of({"Tracestate": "mine=1"}).headers(1)}


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (TRACE, "01"),
        (TRACE[:-2] + "fe", "00"),  # flags that version 00 doesn't know
        ("01" + TRACE[2:] + "-more", "01"),  # a later version's
        (TRACE + "-more", None),
        (TRACE.upper(), None),
        ("ff" + TRACE[2:], None),
        (TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), None),
        (TRACE.replace("b7ad6b7169203331", "0" * 16), None),
    ],
)
def test_a_trace_is_joined_only_if_it_is_one(value, flags):
    with propagated({"traceparent": value, "tracestate": "a=b"}):
        found = handed_on()
    joined = found["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert (found["traceparent"][-2:] if joined else None) == flags
    assert ("tracestate" in found) is joined


def test_all_attempts_of_a_call_share_their_ids_but_not_their_time():
    propagation = Propagation.of({})
    early, late = propagation.headers(2.0), propagation.headers(0.0001)
    assert (early.pop("X-Request-Timeout-Ms"), late.pop("X-Request-Timeout-Ms")) == ("2000", "1")
    assert early == late


def test_the_deadline_of_a_request_ends_with_it():
    before = time.monotonic()
    with propagated(SENT):
        found = deadline()
        assert found is not None
        assert before + 1.5 <= found <= time.monotonic() + 1.5
    assert deadline() is None


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1e3", "soon", "9" * 13, "٣", " 1", "0x10"])
def test_a_deadline_that_is_no_number_counts_as_none(value):
    with propagated({"X-Request-Timeout-Ms": value}):
        assert deadline() is None


@given(st.dictionaries(st.sampled_from(list(SENT)), st.text(max_size=200)))
def test_whatever_a_stranger_sends_only_well_formed_headers_go_on(headers):
    with propagated(headers):
        found = handed_on()
    assert re.fullmatch(TRACE_FORM, found["traceparent"])
    assert re.fullmatch(r"[\w.:/+=@-]{1,128}", found["X-Request-ID"], re.ASCII)
    assert all(value.isascii() and value.isprintable() for value in found.values())


def test_asgi_applications_hand_on_what_came():
    seen = []

    async def app(scope, receive, send):
        seen.append((handed_on()["X-Request-ID"], deadline() is not None))

    headers = [(name.lower().encode(), value.encode()) for name, value in SENT.items()]
    asyncio.run(PropagateContext(app)({"type": "http", "headers": headers}, None, None))
    asyncio.run(PropagateContext(app)({"type": "lifespan"}, None, None))
    assert seen[0] == ("card-7", True)
    assert seen[1][1] is False
