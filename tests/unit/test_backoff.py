"""When an item that failed is tried again, by a clock that the test sets."""

from __future__ import annotations

import pytest

from registry_admin.reconcile.backoff import Backoff, Repairs


@pytest.fixture
def backoff() -> Backoff:
    return Backoff(random_share=lambda: 1.0)


def test_what_has_not_failed_is_due(backoff):
    assert backoff.is_due("api-1", "d", 0.0)
    assert backoff.next_in_s(0.0) is None


def test_each_failure_makes_a_longer_pause_up_to_five_minutes(backoff):
    assert [backoff.failed("api-1", "d", 0.0) for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_it_goes_on_for_ever(backoff):
    for _ in range(5000):
        assert backoff.failed("api-1", "d", 0.0) <= 300


def test_the_pauses_are_jittered_between_half_and_whole():
    hasty = Backoff(random_share=lambda: 0.0)
    assert [hasty.failed("api-1", "d", 0.0) for _ in range(3)] == [0.5, 1, 2]


def test_it_is_not_due_until_its_pause_is_over(backoff):
    backoff.failed("api-1", "d", 100.0)
    assert not backoff.is_due("api-1", "d", 100.9)
    assert backoff.is_due("api-1", "d", 101.0)


def test_one_does_not_hold_up_another(backoff):
    backoff.failed("api-1", "d", 0.0)
    assert backoff.is_due("api-2", "d", 0.0)


def test_something_new_is_due_at_once_and_fails_for_the_first_time(backoff):
    for _ in range(5):
        backoff.failed("api-1", "old", 0.0)
    assert backoff.is_due("api-1", "new", 0.0)
    assert backoff.failed("api-1", "new", 0.0) == 1


def test_a_success_ends_the_growth(backoff):
    for _ in range(5):
        backoff.failed("api-1", "d", 0.0)
    backoff.succeeded("api-1")
    assert backoff.is_due("api-1", "d", 0.0)
    assert backoff.failed("api-1", "d", 0.0) == 1
    backoff.succeeded("never failed")


def test_when_the_next_is_due_is_told_and_what_is_due_already_makes_no_busy_loop(backoff):
    backoff.failed("api-1", "d", 0.0)
    backoff.failed("api-2", "d", 0.0)
    backoff.failed("api-2", "d", 0.0)
    assert backoff.next_in_s(0.25) == 0.75
    assert backoff.next_in_s(1.5) == 0.5
    assert backoff.next_in_s(9.0) is None


def test_what_there_is_nothing_to_do_for_is_forgotten(backoff):
    backoff.failed("gone", "d", 0.0)
    backoff.failed("kept", "d", 0.0)
    backoff.keep_only({"kept"})
    assert backoff.is_due("gone", "d", 0.0)
    assert not backoff.is_due("kept", "d", 0.0)


def test_what_is_changed_again_and_again_is_put_right_later_and_later_and_named():
    repairs = Repairs()
    for number in range(29):
        assert repairs.wait_s("api-1", number) == 0
        repairs.note("api-1", number)
    assert repairs.texts(29) == {}
    repairs.note("api-1", 29)
    assert repairs.wait_s("api-1", 29) == 10
    assert repairs.wait_s("api-1", 39) == 0
    assert "put right 30 times within 10 min" in repairs.texts(29)["api-1"]
    repairs.note("api-1", 39)
    assert repairs.wait_s("api-1", 39) == 20
    for number in range(20):
        repairs.note("api-1", 40 + number)
    assert repairs.wait_s("api-1", 59) == 300
    assert repairs.wait_s("api-2", 59) == 0


def test_a_war_that_is_over_is_forgotten():
    repairs = Repairs()
    for number in range(40):
        repairs.note("api-1", number)
    assert repairs.wait_s("api-1", 640) == 0
    assert repairs.texts(640) == {}
