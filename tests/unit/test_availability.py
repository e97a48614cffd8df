"""Bars of availability."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.dashboard.availability import Stretch, measure, percent, stretches

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return BEGAN + timedelta(minutes=minutes)


def bars(*instances, gaps=(), minutes=40, buckets=4):
    return measure(instances, gaps, began=BEGAN, ended=at(minutes), buckets=buckets)


def test_each_bar_has_its_state():
    instance = [
        Stretch(at(0), at(10), "passing"), Stretch(at(10), at(25), "critical"), Stretch(at(25), at(30), "warning"),
        Stretch(at(30), at(40), "maintenance"),
    ]  # fmt: skip
    found = bars(instance)
    assert [one.state for one in found.buckets] == ["passing", "critical", "degraded", "maintenance"]
    assert [one.share for one in found.buckets] == [1.0, 0.0, pytest.approx(0.5), None]
    assert found.share == pytest.approx(15 / 30)


def test_of_what_nobody_saw_nothing_is_said():
    found = bars([Stretch(at(0), at(40), "passing")], gaps=[(at(10), at(20)), (at(15), at(30))])
    assert [one.state for one in found.buckets] == ["passing", "no_data", "no_data", "passing"]
    assert found.share == 1.0
    assert "no data for 2 of 4 bars" in found.in_words
    assert bars().in_words == "No data."


def test_one_of_two_down_is_half():
    found = bars([Stretch(at(0), at(40), "passing")], [Stretch(at(0), at(40), "critical")])
    assert {one.state for one in found.buckets} == {"degraded"}
    assert found.percent == "50 %"


def test_what_was_evicted_is_down_and_what_left_is_not_counted():
    evicted = bars([Stretch(at(0), at(20), "passing"), Stretch(at(20), at(40), "evicted")])
    left = bars([Stretch(at(0), at(20), "passing"), Stretch(at(20), at(40), "")])
    assert (evicted.share, left.share) == (0.5, 1.0)


def test_health_is_told_backwards_from_its_changes():
    changes = [(at(10), "passing", "critical"), (at(20), "critical", "passing")]
    told = stretches(changes, current="passing", since=at(-100), began=BEGAN, now=at(40))
    assert told == [
        Stretch(at(0), at(10), "passing"),
        Stretch(at(10), at(20), "critical"),
        Stretch(at(20), at(40), "passing"),
    ]
    assert stretches([], current="warning", since=at(30), began=BEGAN, now=at(40)) == [
        Stretch(at(30), at(40), "warning")
    ]
    assert stretches([], current="passing", since=at(50), began=BEGAN, now=at(40)) == []


def test_a_percentage_is_never_rounded_up_to_all():
    assert percent(0.99999) == "99.99 %"
    assert percent(1.0) == "100 %"


minutes = st.floats(min_value=-50, max_value=90, allow_nan=False)
spans = st.tuples(minutes, minutes).map(sorted)


@given(
    instances=st.lists(
        st.lists(st.tuples(spans, st.sampled_from(["passing", "critical", "warning", "maintenance", "", "unknown"]))),
        max_size=4,
    ),
    gaps=st.lists(spans, max_size=4),
    buckets=st.integers(min_value=1, max_value=20),
)
def test_bars_cover_the_time_without_holes_and_shares_are_shares(instances, gaps, buckets):
    lives = [[Stretch(at(a), at(b), health) for (a, b), health in life] for life in instances]
    found = measure(lives, [(at(a), at(b)) for a, b in gaps], began=BEGAN, ended=at(40), buckets=buckets)
    assert len(found.buckets) == buckets
    assert (found.buckets[0].began, found.buckets[-1].ended) == (BEGAN, at(40))
    assert all(one.ended == other.began for one, other in zip(found.buckets, found.buckets[1:], strict=False))
    assert all(one.share is None or 0 <= one.share <= 1 for one in found.buckets)
    assert found.share is None or 0 <= found.share <= 1
    assert all((one.share is None) == (one.state in ("no_data", "maintenance")) for one in found.buckets)
