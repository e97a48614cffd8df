"""How long an instance has been critical, whatever the clock on the wall does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from registry_admin.reconcile.eviction import Ages

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def seconds(*looks: tuple[datetime, datetime, float]) -> list[float]:
    """For each look, which is since when, the time on the wall and that of the forward clock."""
    ages = Ages()
    return [ages.seconds({"a": since}, now=now, forward=forward)["a"] for since, now, forward in looks]


def test_what_was_written_down_before_this_process_began_counts():
    assert seconds((NOON, NOON + timedelta(seconds=20), 1000.0)) == [20.0]


def test_a_jump_forward_ages_nobody():
    assert seconds((NOON, NOON, 0.0), (NOON, NOON + HOUR, 5.0)) == [0.0, 5.0]


def test_a_jump_back_makes_nobody_younger():
    assert seconds((NOON, NOON, 0.0), (NOON, NOON - HOUR, 5.0)) == [0.0, 5.0]
    assert seconds((NOON, NOON - HOUR, 0.0), (NOON, NOON - HOUR, 5.0)) == [0.0, 5.0]


def test_who_turns_critical_again_begins_anew():
    again = NOON + timedelta(seconds=50)
    assert seconds((NOON, NOON, 0.0), (again, again, 50.0), (again, again, 60.0)) == [0.0, 0.0, 10.0]


def test_who_recovers_is_forgotten():
    ages = Ages()
    ages.seconds({"a": NOON}, now=NOON, forward=0.0)
    assert ages.seconds({}, now=NOON, forward=10.0) == {}
    assert ages.seconds({"a": NOON}, now=NOON, forward=20.0) == {"a": 0.0}
