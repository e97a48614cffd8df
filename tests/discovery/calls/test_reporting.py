"""Counting calls, and reporting them to Registry Admin."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from registry_admin.discovery import process_name
from registry_admin.discovery.calls import reporting
from registry_admin.discovery.calls.reporting import MAX_SERVICES, CallReporter
from tests.parts import wait_until


@pytest.fixture
def sent(monkeypatch) -> list[dict]:
    monkeypatch.setattr(reporting, "FIRST_REPORT_S", 3600.0)
    return []


@pytest.fixture
def reporter(sent):
    reporter = CallReporter(send=lambda body, _timeout_s: sent.append(body), caller_name=lambda: "research-api")
    yield reporter
    reporter._closed.set()


def test_flush_sends_the_totals_once(reporter, sent):
    reporter.record("backend-api", 0.010, False)
    reporter.record("backend-api", 0.030, True)
    reporter.record("other", 0.001, False)
    assert reporter.flush()
    assert sent == [{
        "caller": "research-api",
        "calls": [
            {"called": "backend-api", "calls": 2, "failures": 1, "milliseconds": 40.0, "slowest_ms": 30.0},
            {"called": "other", "calls": 1, "failures": 0, "milliseconds": 1.0, "slowest_ms": 1.0},
        ],
    }]  # fmt: skip
    assert reporter.flush()
    assert len(sent) == 1


def test_flush_after_a_failure_sends_the_earlier_calls_too(reporter, sent):
    def refuse(_body: object, _timeout_s: float) -> None:
        raise OSError("away")

    deliver, reporter.send = reporter.send, refuse
    reporter.record("backend-api", 0.010, False)
    assert not reporter.flush()
    reporter.record("backend-api", 0.020, True)
    reporter.send = deliver
    assert reporter.flush()
    assert sent[0]["calls"][0] == {
        "called": "backend-api", "calls": 2, "failures": 1, "milliseconds": 30.0, "slowest_ms": 20.0,
    }  # fmt: skip


def test_flush_without_a_process_name_sends_nothing_until_there_is_one(sent):
    names = [""]
    reporter = CallReporter(send=lambda body, _timeout_s: sent.append(body), caller_name=lambda: names[0])
    reporter.record("backend-api", 0.01, False)
    assert reporter.flush()
    assert not sent
    names[0] = "late"
    reporter.flush()
    assert sent[0]["caller"] == "late"
    reporter._closed.set()


def test_number_of_services_is_limited(reporter):
    for number in range(MAX_SERVICES + 50):
        reporter.record(f"s-{number}", 0.01, False)
    assert len(reporter.totals) == MAX_SERVICES


def test_record_from_several_threads_counts_every_call(reporter):
    def record_many() -> None:
        for _ in range(2000):
            reporter.record("backend-api", 0.001, False)

    threads = [threading.Thread(target=record_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reporter.totals["backend-api"].calls == 8000


def test_reporter_thread_sends_by_itself_and_close_sends_the_last_calls(monkeypatch):
    monkeypatch.setattr(reporting, "FIRST_REPORT_S", 0.01)
    monkeypatch.setattr(reporting, "REPORT_INTERVAL_S", 0.01)
    sent: list[dict] = []
    reporter = CallReporter(send=lambda body, _timeout_s: sent.append(body), caller_name=lambda: "me")
    reporter.record("backend-api", 0.01, False)
    wait_until(lambda: sent, 5, "the report")
    reporter.close()
    reporter.record("backend-api", 0.01, False)
    reporter.close()
    assert sum(body["calls"][0]["calls"] for body in sent) == 2


def test_forked_child_starts_without_totals(reporter):
    reporter.record("backend-api", 0.01, False)
    reporter.after_fork()
    assert reporter.totals == {}
    reporter.record("backend-api", 0.01, False)
    assert reporter.totals["backend-api"].calls == 1


def test_call_recorder_without_a_token_is_none(monkeypatch):
    for name in ("REGISTRY_REPORT_TOKEN", "REGISTRY_REPORT_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    reporting.process_reporter.cache_clear()
    assert reporting.call_recorder(StubClient) is None
    reporting.process_reporter.cache_clear()


class StubClient:
    """Stands in for the client that sends the reports."""

    def __init__(self, status: int = 204) -> None:
        self.status = status
        self.posts: list[tuple[str, str, dict]] = []

    def post(self, service: str, path: str, **options: Any) -> SimpleNamespace:
        self.posts.append((service, path, options))
        return SimpleNamespace(status_code=self.status)


def test_report_is_posted_to_registry_admin_with_the_token(monkeypatch):
    monkeypatch.delenv("REGISTRY_REPORT_SERVICE", raising=False)
    client = StubClient()
    reporting._report_sender(lambda: client, "hush-hush")({"caller": "me"}, 2.5)
    headers = {"Authorization": "Bearer hush-hush"}
    options = {"json": {"caller": "me"}, "timeout": 2.5, "headers": headers}
    assert client.posts == [("registry-admin", "/api/calls", options)]


def test_report_that_is_refused_raises():
    with pytest.raises(ValueError, match="answered 403"):
        reporting._report_sender(lambda: StubClient(403), "hush-hush")({}, 1.0)


def test_process_name_is_service_name_or_the_registered_one(monkeypatch):
    monkeypatch.setattr(process_name, "_registered_name", "")
    monkeypatch.delenv("SERVICE_NAME", raising=False)
    assert process_name.current_process_name() == ""
    process_name.set_registered_name("registered")
    assert process_name.current_process_name() == "registered"
    monkeypatch.setenv("SERVICE_NAME", "named")
    assert process_name.current_process_name() == "named"


def test_token_is_read_from_a_file_and_an_unreadable_file_is_logged(monkeypatch, tmp_path, caplog):
    path = tmp_path / "token"
    path.write_text("hush-hush\n")
    monkeypatch.delenv("REGISTRY_REPORT_TOKEN", raising=False)
    monkeypatch.setenv("REGISTRY_REPORT_TOKEN_FILE", os.fspath(path))
    assert reporting._read_token() == "hush-hush"
    monkeypatch.setenv("REGISTRY_REPORT_TOKEN_FILE", os.fspath(tmp_path / "missing"))
    assert reporting._read_token() == ""
    assert "calls aren't reported" in caplog.text
