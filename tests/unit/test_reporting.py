"""Counting calls, and telling Registry Admin of them."""

from __future__ import annotations

import os
import threading

import pytest

from registry_admin.discovery import reporting
from registry_admin.discovery.reporting import MOST_PAIRS, Reporter
from tests.parts import wait_until


@pytest.fixture
def sent(monkeypatch) -> list[dict]:
    monkeypatch.setattr(reporting, "FIRST_S", 3600.0)
    return []


@pytest.fixture
def reporter(sent):
    reporter = Reporter(send=lambda body, _patience: sent.append(body), own_name=lambda: "research-api")
    yield reporter
    reporter._ended.set()


def test_calls_are_added_up_and_sent_once(reporter, sent):
    reporter.count("backend-api", 0.010, False)
    reporter.count("backend-api", 0.030, True)
    reporter.count("other", 0.001, False)
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


def test_what_did_not_arrive_is_kept_and_sent_with_the_rest(reporter, sent):
    good, reporter.send = reporter.send, lambda _body, _patience: (_ for _ in ()).throw(OSError("away"))
    reporter.count("backend-api", 0.010, False)
    assert not reporter.flush()
    reporter.count("backend-api", 0.020, True)
    reporter.send = good
    assert reporter.flush()
    assert sent[0]["calls"][0] | {} == {
        "called": "backend-api", "calls": 2, "failures": 1, "milliseconds": 30.0, "slowest_ms": 20.0,
    }  # fmt: skip


def test_who_has_no_name_yet_keeps_counting(sent):
    names = [""]
    reporter = Reporter(send=lambda body, _patience: sent.append(body), own_name=lambda: names[0])
    reporter.count("backend-api", 0.01, False)
    assert reporter.flush()
    assert not sent
    names[0] = "late"
    reporter.flush()
    assert sent[0]["caller"] == "late"
    reporter._ended.set()


def test_pairs_are_bounded(reporter):
    for number in range(MOST_PAIRS + 50):
        reporter.count(f"s-{number}", 0.01, False)
    assert len(reporter.tallies) == MOST_PAIRS


def test_threads_lose_no_count(reporter):
    def many() -> None:
        for _ in range(2000):
            reporter.count("backend-api", 0.001, False)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reporter.tallies["backend-api"].calls == 8000


def test_a_thread_sends_by_itself_and_the_end_sends_the_rest(monkeypatch):
    monkeypatch.setattr(reporting, "FIRST_S", 0.01)
    monkeypatch.setattr(reporting, "EVERY_S", 0.01)
    sent: list[dict] = []
    reporter = Reporter(send=lambda body, _patience: sent.append(body), own_name=lambda: "me")
    reporter.count("backend-api", 0.01, False)
    wait_until(lambda: sent, 5, "the report")
    reporter.end()
    reporter.count("backend-api", 0.01, False)
    reporter.end()
    assert sum(body["calls"][0]["calls"] for body in sent) == 2


def test_a_forked_child_begins_with_nothing(reporter):
    reporter.count("backend-api", 0.01, False)
    reporter.after_fork()
    assert reporter.tallies == {}
    reporter.count("backend-api", 0.01, False)
    assert reporter.tallies["backend-api"].calls == 1


def test_without_a_token_nothing_is_counted(monkeypatch):
    for name in ("REGISTRY_REPORT_TOKEN", "REGISTRY_REPORT_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    reporting.process_reporter.cache_clear()
    assert reporting.counter() is None
    reporting.process_reporter.cache_clear()


def test_the_token_comes_from_a_file_and_a_bad_file_is_said_without_it(monkeypatch, tmp_path, caplog):
    path = tmp_path / "token"
    path.write_text("hush-hush\n")
    monkeypatch.delenv("REGISTRY_REPORT_TOKEN", raising=False)
    monkeypatch.setenv("REGISTRY_REPORT_TOKEN_FILE", os.fspath(path))
    assert reporting._token() == "hush-hush"
    monkeypatch.setenv("REGISTRY_REPORT_TOKEN_FILE", os.fspath(tmp_path / "missing"))
    assert reporting._token() == ""
    assert "calls aren't reported" in caplog.text
