"""Load balancers: the shares of calls that endpoints get."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.discovery.instances.load_balancing import (
    InstanceGroup,
    LoadBalancer,
    PowerOfTwo,
    RoundRobin,
    WeightedRandom,
    load_balancer,
)
from registry_admin.discovery.instances.outlier_detection import SLOW_START_S, Endpoint
from registry_admin.errors import InvalidValueError
from tests.discovery.instances.endpoints import make_endpoints, succeed

NAMES = ["power-of-two", "round-robin", "random"]


def count_picks(balancer: LoadBalancer, group: InstanceGroup, count: int, *, now: float = 100.0) -> Counter[Endpoint]:
    picks: Counter[Endpoint] = Counter()
    for _ in range(count):
        endpoint = balancer.pick(group, tried=(), now=now, repeatable=True)
        assert endpoint is not None
        picks[endpoint] += 1
    return picks


def power_of_two() -> PowerOfTwo:
    return PowerOfTwo(random_share=random.Random(7).random)


def test_round_robin_equal_instances_take_turns():
    endpoints, balancer = make_endpoints(1, 1), RoundRobin()
    group = InstanceGroup(endpoints)
    picked = [balancer.pick(group, tried=(), now=0.0, repeatable=True) for _ in range(4)]
    assert picked == [endpoints[0], endpoints[1], endpoints[0], endpoints[1]]


def test_round_robin_counts_turns_for_each_service():
    balancer = RoundRobin()
    api, web = InstanceGroup(make_endpoints(1, 1)), InstanceGroup(make_endpoints(1, 1, service="web"))
    picked = [balancer.pick(group, tried=(), now=0.0, repeatable=True) for group in (api, web, api, web)]
    assert [endpoint.instance.id for endpoint in picked] == ["api-0", "web-0", "api-1", "web-1"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.randoms())
def test_round_robin_shares_are_exact_for_any_order_of_endpoints(weights, shuffle: random.Random):
    endpoints, balancer = make_endpoints(*weights), RoundRobin()
    picks: Counter[Endpoint] = Counter()
    for _ in range(sum(weights)):
        shuffled = list(endpoints)
        shuffle.shuffle(shuffled)
        picks += count_picks(balancer, InstanceGroup(shuffled), 1)
    assert picks == dict(zip(endpoints, weights, strict=True))


@pytest.mark.parametrize("algorithm", [PowerOfTwo, WeightedRandom])
@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2), (9, 1), (100, 100, 50, 50)])
def test_pick_healthy_endpoints_get_shares_by_weight(algorithm, weights):
    endpoints, count = make_endpoints(*weights), 6000
    balancer = algorithm(random_share=random.Random(7).random)
    for endpoint, duration_s in zip(endpoints, (0.0020, 0.0023, 0.0019, 0.0021), strict=False):
        succeed(endpoint, 100.0, duration_s=duration_s)
    picks = count_picks(balancer, InstanceGroup(endpoints), count)
    for endpoint, weight in zip(endpoints, weights, strict=True):
        assert picks[endpoint] / count == pytest.approx(weight / sum(weights), abs=0.03)


def test_power_of_two_slow_endpoint_is_avoided_and_tried_again_much_later():
    slow, *fast = endpoints = make_endpoints(1, 1, 1)
    succeed(slow, 100.0, duration_s=0.5)
    for endpoint in fast:
        succeed(endpoint, 100.0, duration_s=0.002)
    balancer, group = power_of_two(), InstanceGroup(endpoints)
    assert count_picks(balancer, group, 1000)[slow] == 0
    assert count_picks(balancer, group, 1000, now=160.0)[slow] > 200


def test_power_of_two_busy_endpoint_is_avoided():
    busy, *idle = endpoints = make_endpoints(1, 1, 1)
    for endpoint in endpoints:
        succeed(endpoint, 100.0, duration_s=0.01)
    busy.start_attempt(100.0)
    assert set(count_picks(power_of_two(), InstanceGroup(endpoints), 500)) == set(idle)


def test_power_of_two_frozen_endpoint_is_avoided_before_any_call_times_out():
    frozen, healthy = endpoints = make_endpoints(1, 1)
    succeed(frozen, 100.0, duration_s=0.002)
    succeed(healthy, 100.0, duration_s=0.003)
    frozen.start_attempt(100.0)
    healthy.start_attempt(100.0)
    healthy.start_attempt(100.049)
    healthy.record_success(100.05, duration_s=0.001)
    assert set(count_picks(power_of_two(), InstanceGroup(endpoints), 200, now=100.051)) == {healthy}


def test_power_of_two_new_endpoint_beside_others_starts_slowly():
    old, (new,) = make_endpoints(1), make_endpoints(1, warm=False)
    group, balancer = InstanceGroup([*old, new]), power_of_two()
    early = count_picks(balancer, group, 2000, now=0.0)[new]
    late = count_picks(balancer, group, 2000, now=SLOW_START_S / 2)[new]
    assert 0 < early < 200
    assert early * 2 < late < 900
    assert count_picks(balancer, group, 2000, now=SLOW_START_S + 1)[new] > 900


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_pick_tried_endpoints_are_never_picked_again_until_none_is_left(name, weights, data):
    endpoints, balancer = make_endpoints(*weights), load_balancer(name)
    group, tried = InstanceGroup(endpoints), []
    while (picked := balancer.pick(group, tried=tried, now=1.0, repeatable=data.draw(st.booleans()))) is not None:
        assert picked not in tried
        tried.append(picked)
    assert set(tried) == set(endpoints)


def test_pick_endpoint_of_weight_zero_still_gets_calls():
    endpoints = make_endpoints(0, 1)
    balancer = WeightedRandom(random_share=random.Random(7).random)
    assert set(count_picks(balancer, InstanceGroup(endpoints), 100)) == set(endpoints)


def test_load_balancer_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InvalidValueError, match="power-of-two, round-robin, random"):
        load_balancer("best")
