"""Load balancing beside an ejected instance, for any random numbers."""

from __future__ import annotations

import itertools
import random

import pytest

from registry_admin.discovery.instances.load_balancing import InstanceGroup, PowerOfTwo
from registry_admin.discovery.instances.outlier_detection import BASE_EJECTION_S, Endpoint, FailureKind
from tests.discovery.instances.endpoints import fail, is_ejected, make_endpoints, succeed


def eject(endpoint: Endpoint, *, now: float) -> None:
    fail(endpoint, now, kind=FailureKind.NOT_SENT, reason="connection refused")
    assert is_ejected(endpoint, now)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_pick_ejected_instance_is_avoided_although_it_fails_quickly(count):
    ejected, *healthy = make_endpoints(*[1] * count)
    for endpoint in healthy:
        succeed(endpoint, 1.0, duration_s=0.5)
    eject(ejected, now=1.0)
    balancer, group = PowerOfTwo(random_share=random.Random(7).random), InstanceGroup([ejected, *healthy])
    picked = {balancer.pick(group, tried=(), now=1.0, repeatable=True) for _ in range(500)}
    assert picked == set(healthy)


def test_pick_after_ejection_sends_one_probe_and_all_other_calls_elsewhere():
    ejected, healthy = make_endpoints(1, 1)
    eject(ejected, now=1.0)
    group, now = InstanceGroup([ejected, healthy]), 1.0 + BASE_EJECTION_S
    balancer = PowerOfTwo(random_share=random.Random(7).random)
    picks = (balancer.pick(group, tried=(), now=now, repeatable=True) for _ in itertools.count())
    assert next(pick for pick in picks if pick is ejected).probing
    assert {next(picks) for _ in range(200)} == {healthy}


def test_pick_ejected_instance_is_the_last_resort_after_all_others():
    ejected, healthy = make_endpoints(1, 1)
    eject(ejected, now=1.0)
    group = InstanceGroup([ejected, healthy])
    assert PowerOfTwo().pick(group, tried=(healthy,), now=1.0, repeatable=True) is ejected
