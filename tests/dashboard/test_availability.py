"""Availability: health periods, bars and percentages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.dashboard.availability import HealthPeriod, health_periods, measure, percent

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def bars(*instances, gaps=(), minutes=40, bar_count=4):
    return measure(instances, gaps, start=START, end=at(minutes), bar_count=bar_count)


def test_bar_state_follows_health_of_its_time():
    instance = [
        HealthPeriod(at(0), at(10), "passing"),
        HealthPeriod(at(10), at(25), "critical"),
        HealthPeriod(at(25), at(30), "warning"),
        HealthPeriod(at(30), at(40), "maintenance"),
    ]
    availability = bars(instance)
    assert [bar.state for bar in availability.bars] == ["passing", "critical", "degraded", "maintenance"]
    assert [bar.share for bar in availability.bars] == [1.0, 0.0, pytest.approx(0.5), None]
    assert availability.share == pytest.approx(15 / 30)


def test_availability_excludes_time_without_observation():
    availability = bars([HealthPeriod(at(0), at(40), "passing")], gaps=[(at(10), at(20)), (at(15), at(30))])
    assert [bar.state for bar in availability.bars] == ["passing", "no_data", "no_data", "passing"]
    assert availability.share == 1.0
    assert "no data for 2 of 4 bars" in availability.description
    assert bars().description == "No data."


def test_availability_with_half_of_the_instances_down_is_50_percent():
    availability = bars([HealthPeriod(at(0), at(40), "passing")], [HealthPeriod(at(0), at(40), "critical")])
    assert {bar.state for bar in availability.bars} == {"degraded"}
    assert availability.percent == "50 %"


def test_availability_counts_evicted_as_down_and_excludes_departed():
    evicted = bars([HealthPeriod(at(0), at(20), "passing"), HealthPeriod(at(20), at(40), "evicted")])
    left = bars([HealthPeriod(at(0), at(20), "passing"), HealthPeriod(at(20), at(40), "")])
    assert (evicted.share, left.share) == (0.5, 1.0)


def test_health_periods_are_derived_from_transitions():
    changes = [(at(10), "passing", "critical"), (at(20), "critical", "passing")]
    periods = health_periods(changes, current="passing", since=at(-100), start=START, now=at(40))
    assert periods == [
        HealthPeriod(at(0), at(10), "passing"),
        HealthPeriod(at(10), at(20), "critical"),
        HealthPeriod(at(20), at(40), "passing"),
    ]
    assert health_periods([], current="warning", since=at(30), start=START, now=at(40)) == [
        HealthPeriod(at(30), at(40), "warning")
    ]
    assert health_periods([], current="passing", since=at(50), start=START, now=at(40)) == []


def test_percent_below_one_is_never_rounded_to_100():
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
    bar_count=st.integers(min_value=1, max_value=20),
)
def test_bars_cover_the_time_without_holes_and_shares_are_between_0_and_1(instances, gaps, bar_count):
    instance_periods = [[HealthPeriod(at(a), at(b), health) for (a, b), health in periods] for periods in instances]
    availability = measure(
        instance_periods, [(at(a), at(b)) for a, b in gaps], start=START, end=at(40), bar_count=bar_count
    )
    assert len(availability.bars) == bar_count
    assert (availability.bars[0].start, availability.bars[-1].end) == (START, at(40))
    assert all(
        bar.end == next_bar.start for bar, next_bar in zip(availability.bars, availability.bars[1:], strict=False)
    )
    assert all(bar.share is None or 0 <= bar.share <= 1 for bar in availability.bars)
    assert availability.share is None or 0 <= availability.share <= 1
    assert all((bar.share is None) == (bar.state in ("no_data", "maintenance")) for bar in availability.bars)
