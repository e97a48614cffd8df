"""Carrying plans out on a real agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, Health, ServiceSpec
from registry_admin.consul.observe import Observation
from registry_admin.consul.types import META_DIGEST, META_OWNER, META_SELF
from registry_admin.reconcile.apply import CONCURRENCY, ItemResult, apply_items
from registry_admin.reconcile.compare import make_plan
from registry_admin.reconcile.plan import Action, Declared
from tests.parts import wait_until

OWNER = "us"
NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture
def api(registry) -> ConsulApi:
    return registry.api


def spec(instance_id: str, **fields: Any) -> ServiceSpec:
    return ServiceSpec(
        **{"name": "api", "address": "127.0.0.1", "port": 9, "id": instance_id, "check": NO_CHECK} | fields
    )


def look(api: ConsulApi) -> Observation:
    return Observation(node="", node_id="", here=api.agent_instances())


def reconcile(
    api: ConsulApi, *declared: ServiceSpec | Declared, evict: Mapping[str, str] = {}, **options: Any
) -> list[ItemResult]:
    """One pass as the product makes it."""
    wanted = [one if isinstance(one, Declared) else Declared(spec=one) for one in declared]
    plan = make_plan(wanted, look(api), owner=OWNER, evict=evict)
    return apply_items(plan.items, api, owner=OWNER, **options)


def checks_of(api: ConsulApi, instance_id: str) -> Mapping[str, str]:
    return {check.id: check.status for check in api.agent_instances()[instance_id].checks}


def test_a_plan_makes_the_agent_as_declared_and_a_second_one_has_nothing_to_do(api):
    api.register(spec("gone"), marks={META_OWNER: OWNER})
    api.register(spec("changed"), marks={META_OWNER: OWNER})
    api.register(spec("stranger"), marks={})
    wanted = [spec("new", tags=("a",), meta={"k": "v"}), spec("changed", port=10)]

    results = reconcile(api, *wanted)

    assert [(result.item.id, result.ok) for result in results] == [("changed", True), ("gone", True), ("new", True)]
    now = api.agent_instances()
    assert now.keys() == {"new", "changed", "stranger"}
    assert now["changed"].port == 10
    assert (now["new"].tags, now["new"].own_meta, now["new"].owner) == (("a",), {"k": "v"}, OWNER)
    assert now["stranger"].owner == ""
    assert reconcile(api, *wanted) == []


def test_what_is_left_alone_is_not_touched(api):
    api.register(spec("stranger"), marks={})
    before = api.agent_instances()
    assert reconcile(api, spec("stranger", port=10)) == []
    assert api.agent_instances() == before


def test_an_update_keeps_the_mark_of_an_instance_that_registered_itself(api):
    api.register(spec("self", tags=("own",)), marks={META_SELF: "asked-for"})
    wanted = spec("self", tags=("declared",))
    assert [result.ok for result in reconcile(api, wanted)] == [True]
    now = api.agent_instances()["self"]
    assert now.meta[META_SELF] == "asked-for"
    assert (now.owner, now.tags, now.meta[META_DIGEST]) == (OWNER, ("declared",), wanted.digest)


def test_an_update_keeps_maintenance_mode(api):
    api.register(spec("api-1"), marks={META_OWNER: OWNER})
    api.set_maintenance("api-1", enable=True, reason="disk is being changed")
    assert [result.ok for result in reconcile(api, spec("api-1", port=10))] == [True]
    now = api.agent_instances()["api-1"]
    assert (now.port, now.health) == (10, Health.MAINTENANCE)
    assert "disk is being changed" in now.output


def test_an_update_keeps_the_health_that_consul_has_seen(api, http_service):
    service = http_service()
    wanted = spec("api-1", port=service.port, check=CheckSpec(interval="1s"))
    reconcile(api, wanted)
    wait_until(lambda: api.agent_instances()["api-1"].health is Health.PASSING, what="the first check")
    service.status = 503
    reconcile(api, spec("api-1", port=service.port, check=CheckSpec(interval="1h"), tags=("new",)))
    assert checks_of(api, "api-1") == {"api-1:http": "passing"}


def test_a_check_of_a_former_kind_goes_and_others_attached_by_hand_stay(api, consul_agent):
    reconcile(api, spec("api-1", check=CheckSpec(kind=CheckKind.TCP)))
    by_hand = {"ID": "disk", "Name": "disk", "ServiceID": "api-1", "TTL": "1h"}
    consul_agent.request("PUT", "/v1/agent/check/register", body=by_hand)

    reconcile(api, spec("api-1", check=CheckSpec(kind=CheckKind.TTL)))
    assert checks_of(api, "api-1").keys() == {"api-1:ttl", "disk"}

    reconcile(api, spec("api-1", check=NO_CHECK))
    assert checks_of(api, "api-1").keys() == {"disk"}


def test_the_automatic_checks_of_a_hand_made_registration_go_when_we_take_it_over(api, consul_agent):
    body = {"ID": "api-1", "Name": "api", "Port": 9, "Checks": [{"TTL": "1h"}, {"TTL": "2h"}]}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    assert checks_of(api, "api-1").keys() == {"service:api-1:1", "service:api-1:2"}
    wanted = spec("api-1", check=CheckSpec(kind=CheckKind.TTL))
    reconcile(api, Declared(spec=wanted, claimed=True))
    assert checks_of(api, "api-1").keys() == {"api-1:ttl"}


def test_the_inline_check_of_a_hand_made_registration_stays_where_we_have_none_to_put_in_its_place(api, consul_agent):
    body = {"ID": "api-1", "Name": "api", "Port": 9, "Check": {"TTL": "1h"}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)

    reconcile(api, Declared(spec=spec("api-1", port=10), claimed=True))
    assert checks_of(api, "api-1").keys() == {"service:api-1"}
    assert api.agent_instances()["api-1"].port == 10

    reconcile(api, Declared(spec=spec("api-1", check=CheckSpec(kind=CheckKind.TTL)), claimed=True))
    assert checks_of(api, "api-1").keys() == {"api-1:ttl"}


def test_another_instance_s_checks_are_not_taken_for_stale_ones(api):
    wanted = [spec("api:1", check=CheckSpec(kind=CheckKind.TTL)), spec("api", port=10)]
    api.register(spec("api"), marks={META_OWNER: OWNER})
    reconcile(api, *wanted)
    assert checks_of(api, "api:1").keys() == {"api:1:ttl"}


def test_one_item_that_is_refused_does_not_hold_up_the_others(api):
    own = spec("on-consul-itself", port=api.config.port)
    heard: list[ItemResult] = []
    results = reconcile(api, spec("a"), own, spec("z"), on_result=heard.append)
    assert [(result.item.id, result.ok) for result in results] == [
        ("a", True),
        ("on-consul-itself", False),
        ("z", True),
    ]
    assert "Consul's own API" in results[1].error
    assert sorted(result.item.id for result in heard) == ["a", "on-consul-itself", "z"]
    assert api.agent_instances().keys() == {"a", "z"}


def test_once_consul_is_away_the_rest_is_not_tried(consul_agent, flaky_proxy):
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    api = ConsulApi(ConsulConfig(host=proxy.host, port=proxy.port))
    many = [Declared(spec=spec(f"api-{number:03}", port=number + 1)) for number in range(10 * CONCURRENCY)]
    plan = make_plan(many, Observation(node="", node_id="", here={}), owner=OWNER)
    proxy.cut()

    results = apply_items(plan.items, api, owner=OWNER)

    assert [result.item.id for result in results] == [item.id for item in plan.items]
    assert not any(result.ok for result in results)
    tried = [result for result in results if "not tried" not in result.error]
    assert 1 <= len(tried) <= CONCURRENCY
    assert "Consul at http://127.0.0.1" in tried[0].error


def test_one_that_consul_fails_to_answer_does_not_hold_up_the_others(http_service):
    def answer(handler, request):
        handler.send_response(500 if b"api-03" in request.body else 200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    consul = http_service(answer=answer)
    api = ConsulApi(ConsulConfig(host=consul.host, port=consul.port))
    many = [Declared(spec=spec(f"api-{number:02}", port=number + 1)) for number in range(4 * CONCURRENCY)]
    plan = make_plan(many, Observation(node="", node_id="", here={}), owner=OWNER)

    results = apply_items(plan.items, api, owner=OWNER)

    api.close()
    assert [result.item.id for result in results if not result.ok] == ["api-03"]
    assert all(result.tried for result in results)


# -- evictions and returns --------------------------------------------------------------------------------------------


def test_what_is_evicted_is_gone(api):
    api.register(spec("dead"), marks={META_OWNER: OWNER})
    api.register(spec("dead-too", port=10), marks={META_SELF: "0"})
    dead = {"dead": "critical for 31 s", "dead-too": "critical for 32 s"}
    results = reconcile(api, spec("dead"), evict=dead)
    assert [(result.item.action, result.ok) for result in results] == [(Action.EVICT, True)] * 2
    assert api.agent_instances() == {}


def test_what_answers_again_is_passing_from_the_first_moment(api):
    check = CheckSpec(kind=CheckKind.TTL, interval="1h")
    reconcile(api, Declared(spec=spec("back", check=check), evicted="dead", answers=True), spec("new", check=check))
    assert checks_of(api, "back") == {"back:ttl": "passing"}
    assert checks_of(api, "new") == {"new:ttl": "critical"}


# -- being told to stop -----------------------------------------------------------------------------------------------


def test_a_no_in_the_middle_stops_what_has_not_begun(api):
    heard: list[ItemResult] = []
    wanted = [spec(f"api-{number:03}", port=number + 1) for number in range(20 * CONCURRENCY)]
    asked_after: list[int] = []

    def may_go_on() -> str:
        asked_after.append(len(heard))
        return "the database is away" if heard else ""

    def note(result: ItemResult) -> None:
        heard.append(result)
        time.sleep(0.01)  # so that there is something left when it is asked again

    results = reconcile(api, *wanted, on_result=note, may_go_on=may_go_on)

    done = [result for result in results if result.ok]
    left = [result for result in results if not result.ok]
    assert [result.item.id for result in results] == [one.id for one in wanted]
    assert asked_after[0] == 0
    assert len(done) > 0
    assert {result.error for result in left} == {"not tried, because the database is away"}
    assert not any(result.tried for result in left)
    assert api.agent_instances().keys() == {result.item.id for result in done}


def test_a_no_from_the_start_lets_nothing_begin(api):
    results = reconcile(api, spec("a"), spec("b", port=10), may_go_on=lambda: "another watcher leads now")
    assert [result.error for result in results] == ["not tried, because another watcher leads now"] * 2
    assert api.agent_instances() == {}


def test_each_removal_is_asked_for_and_a_no_holds_up_nothing_else(api):
    for number, name in enumerate(("gone", "dead", "kept")):
        api.register(spec(name, port=number + 1), marks={META_OWNER: OWNER})
    answers = ["", "another watcher leads now"]
    results = reconcile(
        api,
        spec("dead", port=2),
        spec("kept", port=33),
        spec("new", port=44),
        evict={"dead": "critical for 31 s"},
        may_remove=lambda: answers.pop(0),
    )
    assert answers == []  # asked just twice
    assert {result.item.id: result.error for result in results} == {
        "dead": "", "gone": "not tried, because another watcher leads now", "kept": "", "new": "",
    }  # fmt: skip
    assert {key: one.port for key, one in api.agent_instances().items()} == {"gone": 1, "kept": 33, "new": 44}


def test_it_asks_and_tells_from_the_thread_that_called_it(api):
    threads = set()

    def note(*_: object) -> str:
        threads.add(threading.current_thread())
        return ""

    api.register(spec("gone"), marks={META_OWNER: OWNER})
    reconcile(api, spec("a", port=1), spec("b", port=2), on_result=note, may_go_on=note, may_remove=note)
    assert threads == {threading.current_thread()}


def test_a_fault_of_who_is_told_ends_it_and_lets_nothing_more_begin(api):
    def note(_result: ItemResult) -> None:
        raise ZeroDivisionError

    wanted = [spec(f"api-{number:03}", port=number + 1) for number in range(20 * CONCURRENCY)]
    with pytest.raises(ZeroDivisionError):
        reconcile(api, *wanted, on_result=note)
    assert len(api.agent_instances()) <= 3 * CONCURRENCY


# -- how it is done ---------------------------------------------------------------------------------------------------


def test_a_few_are_written_at_once_and_never_more_than_the_bound(api, monkeypatch):
    running, most, lock = 0, 0, threading.Lock()
    all_there = threading.Barrier(CONCURRENCY)

    def register(*_args: object, **_kwargs: object) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        all_there.wait(timeout=10)  # would break if fewer ran at once
        with lock:
            running -= 1

    monkeypatch.setattr(api, "register", register)
    results = reconcile(api, *(spec(f"api-{number}", port=number + 1) for number in range(2 * CONCURRENCY)))
    assert all(result.ok for result in results)
    assert most == CONCURRENCY


def test_a_result_tells_itself_as_plain_data(api):
    (result,) = reconcile(api, spec("api-1"))
    told = result.as_dict()
    assert {key: told[key] for key in ("action", "id", "ok", "error")} == {
        "action": "register", "id": "api-1", "ok": True, "error": "",
    }  # fmt: skip
    assert told["seconds"] > 0


@pytest.mark.parametrize("wanted", [[], [spec("ours", port=10)]], ids=["remove", "update"])
def test_what_was_released_since_the_plan_was_made_is_neither_removed_nor_taken_back(api, wanted):
    api.register(spec("ours"), marks={META_OWNER: OWNER})
    plan = make_plan([Declared(spec=one) for one in wanted], look(api), owner=OWNER)
    api.register(spec("ours"), marks=None)
    (result,) = apply_items(plan.items, api, owner=OWNER)
    assert "isn't ours any more" in result.error
    now = api.agent_instances()["ours"]
    assert (now.port, dict(now.meta)) == (9, {})
