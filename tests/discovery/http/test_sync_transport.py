"""Exchanges of the synchronous transport over real sockets."""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import pytest

from registry_admin.discovery.http.request import build_request
from registry_admin.discovery.http.sync_transport import SyncTransport
from registry_admin.errors import AttemptError, Outcome
from tests.parts.raw_service import FINE, OK


def exchange(transport: SyncTransport, service: Any, *, timeout_s: float = 5.0, method: str = "GET") -> str:
    base_url = f"http://{service.host}:{service.port}"
    deadline = time.monotonic() + timeout_s
    sent = transport.start(build_request("api", "/", method=method), base_url, deadline=deadline, headers={})
    while (response := sent.read_response()) is None:
        pass
    return response.text


def test_response_is_read_to_its_end(raw_service):
    assert exchange(SyncTransport(), raw_service(FINE)) == "fine"


@pytest.mark.parametrize("size", [10, 100_000])
def test_response_that_breaks_off_may_have_been_received(raw_service, size):
    service = raw_service(OK + b"Content-Length: %d\r\n\r\n" % size + bytes(size - 1))
    with pytest.raises(AttemptError, match="broke off in the middle") as caught:
        exchange(SyncTransport(), service)
    assert caught.value.outcome is Outcome.MAYBE_RECEIVED


def test_failed_exchange_in_a_reference_cycle_is_collected_without_an_error(raw_service, monkeypatch):
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    service = raw_service(OK + b"Content-Length: 10\r\n\r\nfine")
    with pytest.raises(AttemptError) as caught:
        exchange(SyncTransport(), service)
    cycle: list[Any] = [caught.value]
    cycle.append(cycle)
    del cycle, caught
    assert gc.collect()
    assert not unraisable
