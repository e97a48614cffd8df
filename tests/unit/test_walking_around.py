"""Picking beside an ejected instance, whatever luck draws."""

from __future__ import annotations

import itertools
import random

import pytest

from registry_admin.consul import Health, ServiceInstance
from registry_admin.discovery.balancing import Group, PowerOfTwo
from registry_admin.discovery.endpoint import EJECTION_S, FAILURES, Endpoint, Outliers


def endpoints(count: int) -> list[Endpoint]:
    outliers = Outliers()
    made = [
        Endpoint(
            ServiceInstance(service="api", id=f"api-{number}", address="10.0.0.1", port=80, health=Health.PASSING),
            outliers,
            now=0.0,
            warm=True,
        )
        for number in range(count)
    ]
    outliers.keep(made)
    return made


def eject(endpoint: Endpoint, *, now: float) -> None:
    for _ in range(FAILURES):
        endpoint.began(now)
        endpoint.failed(now, took=0.0001, reason="connection refused", refused=True)
    assert endpoint.is_ejected(now)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_an_ejected_instance_is_not_picked_for_failing_more_quickly_than_others_answer(count):
    bad, *others = endpoints(count)
    for other in others:
        other.began(1.0)
        other.succeeded(1.0, took=0.5)
    eject(bad, now=1.0)
    balancing, group = PowerOfTwo(share=random.Random(7).random), Group([bad, *others])
    picked = {balancing.pick(group, tried=(), now=1.0, repeatable=True) for _ in range(500)}
    assert picked == set(others)


def test_one_call_proves_it_and_all_others_stay_away_meanwhile():
    bad, other = endpoints(2)
    eject(bad, now=1.0)
    balancing, group, now = PowerOfTwo(share=random.Random(7).random), Group([bad, other]), 1.0 + EJECTION_S
    picks = (balancing.pick(group, tried=(), now=now, repeatable=True) for _ in itertools.count())
    assert next(pick for pick in picks if pick is bad).probing
    assert {next(picks) for _ in range(200)} == {other}


def test_an_ejected_instance_is_the_last_resort_of_a_call_that_has_tried_the_others():
    bad, other = endpoints(2)
    eject(bad, now=1.0)
    assert PowerOfTwo().pick(Group([bad, other]), tried=(other,), now=1.0, repeatable=True) is bad
