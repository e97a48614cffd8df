"""Outages: from which numbers on a group's instances fail together, and when that is over."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from registry_admin.reconcile.outage import Group, GroupCount, GroupKind, Halt, count_groups, next_halts

DATACENTER = Group(GroupKind.DATACENTER, "")
API = Group(GroupKind.SERVICE, "api")


@dataclass(frozen=True)
class Member:
    place: tuple[str, ...]
    groups: tuple[Group, ...] = (DATACENTER, API)
    is_down: bool = True


@pytest.mark.parametrize(
    ("down", "total", "disturbed"),
    [(2, 2, False), (2, 3, False), (3, 3, True), (3, 15, True), (3, 16, False), (4, 16, True), (19, 100, False)],
)
def test_datacenter_is_disturbed_from_three_and_a_fifth(down, total, disturbed):
    assert GroupCount(down, total).is_disturbed(GroupKind.DATACENTER) is disturbed


@pytest.mark.parametrize("kind", [GroupKind.SERVICE, GroupKind.NODE])
@pytest.mark.parametrize(
    ("down", "total", "disturbed"), [(1, 1, False), (1, 2, False), (2, 2, True), (2, 3, False), (3, 3, True)]
)
def test_service_or_node_with_more_than_one_is_disturbed_when_all_are_down(kind, down, total, disturbed):
    assert GroupCount(down, total).is_disturbed(kind) is disturbed


@pytest.mark.parametrize(
    ("kind", "down", "total", "calm"),
    [
        (GroupKind.DATACENTER, 1, 15, True),
        (GroupKind.DATACENTER, 2, 15, False),  # the threshold is 3
        (GroupKind.DATACENTER, 9, 100, True),  # the threshold is 20
        (GroupKind.DATACENTER, 10, 100, False),
        (GroupKind.SERVICE, 1, 2, True),  # a single dead one is no outage
        (GroupKind.SERVICE, 2, 4, False),
        (GroupKind.SERVICE, 2, 5, True),
    ],
)
def test_group_is_calm_below_half_of_its_threshold(kind, down, total, calm):
    assert GroupCount(down, total).is_calm(kind) is calm


def test_counts_leave_out_confirmed_instances():
    members = [Member(("n", "a")), Member(("n", "b")), Member(("n", "c"), is_down=False)]
    assert count_groups(members)[API] == (2, 3)
    assert count_groups(members, confirmed={("n", "a")})[API] == (1, 2)


def test_halt_begins_with_disturbance():
    assert next_halts({}, {API: GroupCount(2, 2), DATACENTER: GroupCount(2, 30)}, elapsed_s=5) == {API: Halt()}


def rounds(*counts: tuple[int, int], elapsed_s: float = 20.0) -> list[bool]:
    """Returns whether the service is halted after each of the rounds."""
    halts: dict[Group, Halt] = {}
    halted = []
    for count in counts:
        halts = next_halts(halts, {API: GroupCount(*count)}, elapsed_s=elapsed_s)
        halted.append(API in halts)
    return halted


def test_halt_ends_after_a_calm_minute():
    assert rounds((4, 4), (1, 4), (1, 4), (1, 4), (1, 4)) == [True, True, True, True, False]


def test_halt_needs_three_calm_rounds():
    assert rounds((4, 4), (0, 4), (0, 4), elapsed_s=300) == [True, True, True]
    assert rounds((4, 4), (0, 4), (0, 4), (0, 4), elapsed_s=300)[-1] is False


def test_calm_begins_anew_when_half_of_the_threshold_is_down_again():
    assert rounds((4, 4), (1, 4), (1, 4), (2, 4), (1, 4), (1, 4), (1, 4), (1, 4)) == [True] * 7 + [False]


def test_halt_of_a_group_that_is_gone_ends():
    halts = {API: Halt()}
    for _ in range(4):
        halts = next_halts(halts, {}, elapsed_s=20)
    assert halts == {}
