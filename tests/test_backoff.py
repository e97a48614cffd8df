"""The one formula of backoff, and the even spread around a length of time."""

from __future__ import annotations

import pytest

from registry_admin.backoff import ExponentialBackoff, spread


def test_pause_doubles_up_to_the_longest():
    backoff = ExponentialBackoff(first_s=0.5, longest_s=5)
    assert [backoff.pause_s(failures) for failures in range(1, 8)] == [0.5, 1, 2, 4, 5, 5, 5]


def test_pause_grows_by_its_factor():
    backoff = ExponentialBackoff(first_s=8, longest_s=100, factor=1.5)
    assert [backoff.pause_s(failures) for failures in (1, 2, 3)] == [8, 12, 18]


def test_pause_without_a_failure_is_the_first():
    assert ExponentialBackoff(first_s=3, longest_s=60).pause_s(0) == 3


def test_pause_after_very_many_failures_does_not_overflow():
    assert ExponentialBackoff(first_s=1, longest_s=30).pause_s(10**9) == 30


@pytest.mark.parametrize(
    ("jitter", "shortest", "longest"),
    [(0.0, 8, 8), (0.5, 4, 8), (1.0, 0, 8)],
    ids=["none", "equal", "full"],
)
def test_jitter_leaves_its_share_of_the_pause_to_chance(jitter, shortest, longest):
    backoff = ExponentialBackoff(first_s=8, longest_s=60, jitter=jitter)
    assert (backoff.pause_s(1, 0.0), backoff.pause_s(1, 1.0)) == (shortest, longest)


def test_jitter_applies_to_the_longest_pause_too():
    assert ExponentialBackoff(first_s=8, longest_s=10, jitter=0.5).pause_s(9, 0.0) == 5


@pytest.mark.parametrize(("random_share", "expected"), [(0.0, 8), (0.5, 10), (1.0, 12)])
def test_spread_lies_evenly_around_its_middle(random_share, expected):
    assert spread(10, 0.2, random_share) == pytest.approx(expected)
