"""Which endpoint a call goes to."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import Health, ServiceInstance
from registry_admin.discovery.balancing import Balancing, Group, InTurn, PowerOfTwo, Random, named
from registry_admin.discovery.endpoint import SLOW_START_S, Endpoint, Outliers
from registry_admin.errors import InvalidValueError

KINDS = ["power-of-two", "round-robin", "random"]


def endpoints(*weights: int, service: str = "api", warm: bool = True) -> list[Endpoint]:
    outliers = Outliers()
    made = [
        Endpoint(
            ServiceInstance(
                service=service, id=f"{service}-{n}", address="10.0.0.1", port=80, weight=weight, health=Health.PASSING
            ),
            outliers,
            now=0.0,
            warm=warm,
        )
        for n, weight in enumerate(weights)
    ]
    outliers.keep(made)
    return made


def shares(balancing: Balancing, group: Group, count: int, *, now: float = 100.0) -> Counter[Endpoint]:
    picked: Counter[Endpoint] = Counter()
    for _ in range(count):
        endpoint = balancing.pick(group, tried=(), now=now, repeatable=True)
        assert endpoint is not None
        picked[endpoint] += 1
    return picked


def answered(endpoint: Endpoint, took: float, *, now: float = 100.0) -> None:
    endpoint.began(now)
    endpoint.succeeded(now, took=took)


def test_equal_instances_take_turns():
    made, balancing = endpoints(1, 1), InTurn()
    picked = [balancing.pick(Group(made), tried=(), now=0.0, repeatable=True) for _ in range(4)]
    assert picked == [made[0], made[1], made[0], made[1]]


def test_services_have_turns_of_their_own():
    balancing, one, other = InTurn(), Group(endpoints(1, 1)), Group(endpoints(1, 1, service="web"))
    picked = [balancing.pick(group, tried=(), now=0.0, repeatable=True) for group in (one, other, one, other)]
    assert [endpoint.instance.id for endpoint in picked] == ["api-0", "web-0", "api-1", "web-1"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.randoms())
def test_in_turns_each_gets_exactly_its_share_whatever_the_order(weights, shuffle: random.Random):
    made, balancing = endpoints(*weights), InTurn()
    counts: Counter[Endpoint] = Counter()
    for _ in range(sum(weights)):
        shuffled = list(made)
        shuffle.shuffle(shuffled)
        counts += shares(balancing, Group(shuffled), 1)
    assert counts == dict(zip(made, weights, strict=True))


@pytest.mark.parametrize("kind", [PowerOfTwo, Random])
@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2), (9, 1), (100, 100, 50, 50)])
def test_in_a_healthy_fleet_shares_follow_the_weights(kind, weights):
    made, count = endpoints(*weights), 6000
    balancing = kind(share=random.Random(7).random)
    for endpoint, took in zip(made, (0.0020, 0.0023, 0.0019, 0.0021), strict=False):
        answered(endpoint, took)
    picked = shares(balancing, Group(made), count)
    for endpoint, weight in zip(made, weights, strict=True):
        assert picked[endpoint] / count == pytest.approx(weight / sum(weights), abs=0.03)


def test_the_slow_one_is_avoided_and_tried_again_when_that_is_long_ago():
    slow, *others = made = endpoints(1, 1, 1)
    answered(slow, 0.5)
    for other in others:
        answered(other, 0.002)
    balancing = PowerOfTwo(share=random.Random(7).random)
    assert shares(balancing, Group(made), 1000)[slow] == 0
    assert shares(balancing, Group(made), 1000, now=160.0)[slow] > 200


def test_the_busy_one_is_avoided():
    busy, *others = made = endpoints(1, 1, 1)
    for endpoint in made:
        answered(endpoint, 0.01)
    busy.began(100.0)
    assert set(shares(PowerOfTwo(share=random.Random(7).random), Group(made), 500)) == set(others)


def test_a_frozen_one_is_avoided_before_anything_has_timed_out():
    frozen, other = made = endpoints(1, 1)
    answered(frozen, 0.002)
    answered(other, 0.003)
    frozen.began(100.0)
    other.began(100.0)
    other.began(100.049)
    other.succeeded(100.05, took=0.001)
    assert set(shares(PowerOfTwo(share=random.Random(7).random), Group(made), 200, now=100.051)) == {other}


def test_a_new_one_beside_others_starts_slowly():
    old, (new,) = endpoints(1), endpoints(1, warm=False)
    group, balancing = Group([*old, new]), PowerOfTwo(share=random.Random(7).random)
    early = shares(balancing, group, 2000, now=0.0)[new]
    late = shares(balancing, group, 2000, now=SLOW_START_S / 2)[new]
    assert 0 < early < 200
    assert early * 2 < late < 900
    assert shares(balancing, group, 2000, now=SLOW_START_S + 1)[new] > 900


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_what_was_tried_is_never_picked_again_and_all_can_be(kind, weights, data):
    made, balancing = endpoints(*weights), named(kind)
    group, tried = Group(made), []
    while (picked := balancing.pick(group, tried=tried, now=1.0, repeatable=data.draw(st.booleans()))) is not None:
        assert picked not in tried
        tried.append(picked)
    assert set(tried) == set(made)


def test_an_instance_that_consul_gives_no_weight_is_still_used():
    made = endpoints(0, 1)
    assert set(shares(Random(share=random.Random(7).random), Group(made), 100)) == set(made)


def test_another_name_is_refused_with_those_that_there_are():
    with pytest.raises(InvalidValueError, match="power-of-two, round-robin, random"):
        named("best")
