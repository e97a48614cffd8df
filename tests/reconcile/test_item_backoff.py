"""Delays of failed items and of contended repairs, with a clock that the test sets."""

from __future__ import annotations

import pytest

from registry_admin.reconcile.item_backoff import ContentionTracker, ItemBackoff


@pytest.fixture
def backoff() -> ItemBackoff:
    return ItemBackoff(random_share=lambda: 1.0)


def test_item_without_failure_is_due(backoff):
    assert backoff.is_due("api-1", "d", 0.0)
    assert backoff.next_in_s(0.0) is None


def test_item_delay_doubles_up_to_five_minutes(backoff):
    assert [backoff.failed("api-1", "d", 0.0) for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_item_delay_after_5000_failures_stays_at_the_maximum(backoff):
    for _ in range(5000):
        assert backoff.failed("api-1", "d", 0.0) <= 300


def test_item_delay_is_jittered_between_half_and_full():
    backoff = ItemBackoff(random_share=lambda: 0.0)
    assert [backoff.failed("api-1", "d", 0.0) for _ in range(3)] == [0.5, 1, 2]


def test_failed_item_is_due_after_its_delay(backoff):
    backoff.failed("api-1", "d", 100.0)
    assert not backoff.is_due("api-1", "d", 100.9)
    assert backoff.is_due("api-1", "d", 101.0)


def test_failed_item_does_not_delay_another_item(backoff):
    backoff.failed("api-1", "d", 0.0)
    assert backoff.is_due("api-2", "d", 0.0)


def test_item_with_changed_digest_is_due_at_once_and_starts_at_the_first_delay(backoff):
    for _ in range(5):
        backoff.failed("api-1", "old", 0.0)
    assert backoff.is_due("api-1", "new", 0.0)
    assert backoff.failed("api-1", "new", 0.0) == 1


def test_item_success_resets_its_delay(backoff):
    for _ in range(5):
        backoff.failed("api-1", "d", 0.0)
    backoff.succeeded("api-1")
    assert backoff.is_due("api-1", "d", 0.0)
    assert backoff.failed("api-1", "d", 0.0) == 1
    backoff.succeeded("never failed")


def test_next_in_s_returns_time_to_next_due_item_and_skips_items_already_due(backoff):
    backoff.failed("api-1", "d", 0.0)
    backoff.failed("api-2", "d", 0.0)
    backoff.failed("api-2", "d", 0.0)
    assert backoff.next_in_s(0.25) == 0.75
    assert backoff.next_in_s(1.5) == 0.5
    assert backoff.next_in_s(9.0) is None


def test_keep_only_drops_other_items(backoff):
    backoff.failed("gone", "d", 0.0)
    backoff.failed("kept", "d", 0.0)
    backoff.keep_only({"kept"})
    assert backoff.is_due("gone", "d", 0.0)
    assert not backoff.is_due("kept", "d", 0.0)


def test_contention_after_30_repairs_delays_further_repairs_and_is_reported():
    repairs = ContentionTracker()
    for number in range(29):
        assert repairs.wait_s("api-1", number) == 0
        repairs.record_repair("api-1", number)
    assert repairs.messages(29) == {}
    repairs.record_repair("api-1", 29)
    assert repairs.wait_s("api-1", 29) == 10
    assert repairs.wait_s("api-1", 39) == 0
    assert "put right 30 times within 10 min" in repairs.messages(29)["api-1"]
    repairs.record_repair("api-1", 39)
    assert repairs.wait_s("api-1", 39) == 20
    for number in range(20):
        repairs.record_repair("api-1", 40 + number)
    assert repairs.wait_s("api-1", 59) == 300
    assert repairs.wait_s("api-2", 59) == 0


def test_contention_expires_after_ten_minutes():
    repairs = ContentionTracker()
    for number in range(40):
        repairs.record_repair("api-1", number)
    assert repairs.wait_s("api-1", 640) == 0
    assert repairs.messages(640) == {}
