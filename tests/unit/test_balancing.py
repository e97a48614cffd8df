"""Which instance a call goes to."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import ServiceInstance
from registry_admin.discovery.balancing import RoundRobin, by_turn


def instances(*weights: int, service: str = "api") -> list[ServiceInstance]:
    return [
        ServiceInstance(service=service, id=f"{service}-{number}", address="10.0.0.1", port=80, weight=weight)
        for number, weight in enumerate(weights)
    ]


def test_equal_instances_take_turns():
    candidates, balancing = instances(1, 1), RoundRobin()
    assert [balancing.pick(candidates).id for _ in range(4)] == ["api-0", "api-1", "api-0", "api-1"]


def test_services_have_turns_of_their_own():
    balancing, one, other = RoundRobin(), instances(1, 1), instances(1, 1, service="web")
    picked = [balancing.pick(candidates).id for candidates in (one, other, one, other)]
    assert picked == ["api-0", "web-0", "api-1", "web-1"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 10**6), st.randoms())
def test_each_gets_its_share_by_weight_whatever_the_order(weights, start, shuffle: random.Random):
    candidates, total = instances(*weights), sum(weights)
    counts: Counter[str] = Counter()
    for turn in range(start, start + total):
        shuffle.shuffle(candidates)
        counts[by_turn(candidates, turn).id] += 1
    assert counts == {f"api-{number}": weight for number, weight in enumerate(weights)}


def test_a_heavy_instance_does_not_get_all_its_calls_in_a_row():
    picked = [by_turn(instances(3, 3), turn).id for turn in range(4)]
    assert picked == ["api-0", "api-1", "api-0", "api-1"]


def test_an_instance_that_consul_gives_no_weight_is_still_used():
    assert {by_turn(instances(0, 1), turn).id for turn in range(2)} == {"api-0", "api-1"}
