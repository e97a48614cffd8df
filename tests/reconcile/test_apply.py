"""Plans applied to a real agent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, Health, ServiceSpec
from registry_admin.consul.marks import META_DIGEST, META_SELF
from registry_admin.consul.snapshot import Snapshot
from registry_admin.errors import ConsulRefusedError
from registry_admin.reconcile.apply import CONCURRENCY, ItemResult, apply_items
from registry_admin.reconcile.plan import Action, Cause, Declared, PlanItem, SyncStatus
from tests.parts import PassingPoller, wait_until
from tests.reconcile.planning import DATACENTER, NODE, OWNER, claim_of, plan_of, registered

NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture
def api(registry) -> ConsulApi:
    return registry.api


def spec(instance_id: str, **fields: Any) -> ServiceSpec:
    return ServiceSpec(
        **{"name": "api", "address": "127.0.0.1", "port": 9, "id": instance_id, "check": NO_CHECK} | fields
    )


def take_snapshot(api: ConsulApi) -> Snapshot:
    local = {
        key: replace(instance, node=NODE, datacenter=DATACENTER) for key, instance in api.agent_instances().items()
    }
    return Snapshot(node=NODE, node_id="", datacenter=DATACENTER, local=local)


def marks(instance_id: str) -> Mapping[str, str]:
    return OWNER.marks(claim_of(instance_id))


def reconcile(
    api: ConsulApi, *declared: ServiceSpec | Declared, evict: Mapping[str, str] = {}, **options: Any
) -> list[ItemResult]:
    """Plans and applies the declarations as the product does; returns the results."""
    declarations = [item if isinstance(item, Declared) else Declared(spec=item) for item in declared]
    plan = plan_of(declarations, take_snapshot(api), evict=evict)
    return apply_items(plan.items, api, marks=marks, **options)


def checks_of(api: ConsulApi, instance_id: str) -> Mapping[str, str]:
    return {check.id: check.status for check in api.agent_instances()[instance_id].checks}


def test_apply_items_makes_agent_as_declared_and_second_plan_is_empty(api):
    api.register(spec("gone"), marks=marks("gone"))
    api.register(spec("changed"), marks=marks("changed"))
    api.register(spec("stranger"), marks={})
    declared = [spec("new", tags=("a",), meta={"k": "v"}), spec("changed", port=10)]

    results = reconcile(api, *declared)

    assert [(result.item.id, result.ok) for result in results] == [("changed", True), ("gone", True), ("new", True)]
    now = api.agent_instances()
    assert now.keys() == {"new", "changed", "stranger"}
    assert now["changed"].port == 10
    assert (now["new"].tags, now["new"].user_meta, now["new"].owner) == (("a",), {"k": "v"}, OWNER.name)
    assert now["stranger"].owner == ""
    assert reconcile(api, *declared) == []


def test_apply_items_foreign_instance_is_not_changed(api):
    api.register(spec("stranger"), marks={})
    before = api.agent_instances()
    assert reconcile(api, spec("stranger", port=10)) == []
    assert api.agent_instances() == before


def test_update_of_self_registered_instance_keeps_its_mark(api):
    api.register(spec("self", tags=("own",)), marks={META_SELF: "asked-for"})
    declared = spec("self", tags=("declared",))
    assert [result.ok for result in reconcile(api, declared)] == [True]
    now = api.agent_instances()["self"]
    assert now.meta[META_SELF] == "asked-for"
    assert (now.owner, now.tags, now.meta[META_DIGEST]) == (OWNER.name, ("declared",), declared.digest)


def test_update_keeps_maintenance_mode(api):
    api.register(spec("api-1"), marks=marks("api-1"))
    api.set_maintenance("api-1", enable=True, reason="disk is being changed")
    assert [result.ok for result in reconcile(api, spec("api-1", port=10))] == [True]
    now = api.agent_instances()["api-1"]
    assert (now.port, now.health) == (10, Health.MAINTENANCE)
    assert "disk is being changed" in now.output


def test_update_keeps_health_of_the_last_check(api, http_service):
    service = http_service()
    declared = spec("api-1", port=service.port, check=CheckSpec(interval="1s"))
    reconcile(api, declared)
    wait_until(lambda: api.agent_instances()["api-1"].health is Health.PASSING, what="the first check")
    service.status = 503
    reconcile(api, spec("api-1", port=service.port, check=CheckSpec(interval="1h"), tags=("new",)))
    assert checks_of(api, "api-1") == {"api-1:http": "passing"}


def test_update_removes_check_of_former_kind_and_keeps_checks_attached_by_hand(api, consul_agent):
    reconcile(api, spec("api-1", check=CheckSpec(kind=CheckKind.TCP)))
    by_hand = {"ID": "disk", "Name": "disk", "ServiceID": "api-1", "TTL": "1h"}
    consul_agent.request("PUT", "/v1/agent/check/register", body=by_hand)

    reconcile(api, spec("api-1", check=CheckSpec(kind=CheckKind.TTL)))
    assert checks_of(api, "api-1").keys() == {"api-1:ttl", "disk"}

    reconcile(api, spec("api-1", check=NO_CHECK))
    assert checks_of(api, "api-1").keys() == {"disk"}


def test_claimed_instance_loses_automatic_checks_of_manual_registration(api, consul_agent):
    body = {"ID": "api-1", "Name": "api", "Port": 9, "Checks": [{"TTL": "1h"}, {"TTL": "2h"}]}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)
    assert checks_of(api, "api-1").keys() == {"service:api-1:1", "service:api-1:2"}
    declared = spec("api-1", check=CheckSpec(kind=CheckKind.TTL))
    reconcile(api, Declared(spec=declared, claim=claim_of("api-1")))
    assert checks_of(api, "api-1").keys() == {"api-1:ttl"}


def test_claimed_instance_keeps_inline_check_until_a_check_is_declared(api, consul_agent):
    body = {"ID": "api-1", "Name": "api", "Port": 9, "Check": {"TTL": "1h"}}
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)

    reconcile(api, Declared(spec=spec("api-1", port=10), claim=claim_of("api-1")))
    assert checks_of(api, "api-1").keys() == {"service:api-1"}
    assert api.agent_instances()["api-1"].port == 10

    reconcile(api, Declared(spec=spec("api-1", check=CheckSpec(kind=CheckKind.TTL)), claim=claim_of("api-1")))
    assert checks_of(api, "api-1").keys() == {"api-1:ttl"}


def test_stale_checks_of_instance_exclude_those_of_an_id_with_the_same_prefix(api):
    declared = [spec("api:1", check=CheckSpec(kind=CheckKind.TTL)), spec("api", port=10)]
    api.register(spec("api"), marks=marks("api"))
    reconcile(api, *declared)
    assert checks_of(api, "api:1").keys() == {"api:1:ttl"}


def test_apply_items_refused_item_does_not_block_others(api):
    own = spec("on-consul-itself", port=api.config.port)
    reported: list[ItemResult] = []
    results = reconcile(api, spec("a"), own, spec("z"), on_result=reported.append)
    assert [(result.item.id, result.ok) for result in results] == [
        ("a", True),
        ("on-consul-itself", False),
        ("z", True),
    ]
    assert "Consul's own API" in results[1].error
    assert sorted(result.item.id for result in reported) == ["a", "on-consul-itself", "z"]
    assert api.agent_instances().keys() == {"a", "z"}


def test_apply_items_stops_after_consul_becomes_unreachable(consul_agent, flaky_proxy):
    proxy = flaky_proxy(consul_agent.host, consul_agent.port)
    api = ConsulApi(ConsulConfig(host=proxy.host, port=proxy.port))
    many = [Declared(spec=spec(f"api-{number:03}", port=number + 1)) for number in range(10 * CONCURRENCY)]
    plan = plan_of(many, Snapshot(node="", node_id="", local={}))
    proxy.cut()

    results = apply_items(plan.items, api, marks=marks)

    assert [result.item.id for result in results] == [item.id for item in plan.items]
    assert not any(result.ok for result in results)
    attempted = [result for result in results if "not tried" not in result.error]
    assert 1 <= len(attempted) <= CONCURRENCY
    assert "Consul at http://127.0.0.1" in attempted[0].error


def test_apply_items_server_error_of_one_item_does_not_block_others(http_service):
    def answer(handler, request):
        handler.send_response(500 if b"api-03" in request.body else 200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    consul = http_service(answer=answer)
    api = ConsulApi(ConsulConfig(host=consul.host, port=consul.port))
    many = [Declared(spec=spec(f"api-{number:02}", port=number + 1)) for number in range(4 * CONCURRENCY)]
    plan = plan_of(many, Snapshot(node="", node_id="", local={}))

    results = apply_items(plan.items, api, marks=marks)

    api.close()
    assert [result.item.id for result in results if not result.ok] == ["api-03"]
    assert all(result.attempted for result in results)


# -- status of a new check --------------------------------------------------------------------------------------------

RARE = {"interval": "1h"}  # the check that an edit registers doesn't run within the test


def register_by_hand(consul_agent: Any, **fields: Any) -> None:
    body = {"ID": "api-1", "Name": "api", "Address": "127.0.0.1", "Port": 9} | fields
    consul_agent.request("PUT", "/v1/agent/service/register", body=body)


@pytest.mark.parametrize(
    "edit",
    [
        {"check": CheckSpec(kind=CheckKind.TCP, **RARE)},
        {"check": CheckSpec(kind=CheckKind.TTL, **RARE)},
        {"check": NO_CHECK},
        {"check": CheckSpec(interval="2h", timeout="9s", path="/other")},
        {"check": CheckSpec(kind=CheckKind.TCP, **RARE), "tags": ("a",), "meta": {"k": "v"}, "weight": 7},
    ],
    ids=["tcp", "ttl", "none", "definition", "kind and tags"],
)
def test_update_of_passing_instance_never_takes_it_out_of_rotation(api, consul_agent, edit):
    api.register(spec("api-1", check=CheckSpec(**RARE)), marks=marks("api-1"), status="passing")
    wait_until(lambda: api.instances("api", passing=True).data, what="the passing instance")
    with PassingPoller(consul_agent, "api") as poller:
        assert [result.ok for result in reconcile(api, spec("api-1", **edit))] == [True]
        assert reconcile(api, spec("api-1", **edit)) == []
    assert poller.seen == [{"api-1"}]
    edited = spec("api-1", **edit)
    assert checks_of(api, "api-1") == ({edited.check_id: "passing"} if edited.check.type.is_registered else {})


def test_check_declared_for_instance_without_one_begins_as_passing(api, consul_agent):
    api.register(spec("api-1"), marks=marks("api-1"))
    wait_until(lambda: api.instances("api", passing=True).data, what="the passing instance")
    with PassingPoller(consul_agent, "api") as poller:
        reconcile(api, spec("api-1", check=CheckSpec(**RARE)))
    assert poller.seen == [{"api-1"}]
    assert checks_of(api, "api-1") == {"api-1:http": "passing"}


@pytest.mark.parametrize(
    ("statuses", "carried"),
    [
        (["passing"], "passing"),
        (["warning"], "warning"),
        (["critical"], "critical"),
        (["passing", "warning"], "warning"),
        (["passing", "critical", "warning"], "critical"),
    ],
)
def test_adopted_check_begins_with_worst_status_of_the_checks_that_it_replaces(api, consul_agent, statuses, carried):
    register_by_hand(consul_agent, Checks=[{"TTL": "1h", "Status": status} for status in statuses])
    wait_until(lambda: api.instances("api").data, what="the instance")
    with PassingPoller(consul_agent, "api") as poller:
        reconcile(api, Declared(spec=spec("api-1", check=CheckSpec(**RARE)), claim=claim_of("api-1")))
    assert poller.seen == [{"api-1"} if carried == "passing" else set()]
    assert checks_of(api, "api-1") == {"api-1:http": carried}


def test_update_carries_status_of_the_moment_of_the_write(api):
    api.register(spec("api-1", check=CheckSpec(kind=CheckKind.TTL, **RARE)), marks=marks("api-1"))
    api.update_ttl("api-1:ttl", "passing")
    plan = plan_of([Declared(spec=spec("api-1", check=CheckSpec(**RARE)))], take_snapshot(api))
    api.update_ttl("api-1:ttl", "critical", output="it died after the snapshot")
    apply_items(plan.items, api, marks=marks)
    assert checks_of(api, "api-1") == {"api-1:http": "critical"}


def test_update_keeps_the_last_check_of_instance_adopted_without_one(api, consul_agent):
    register_by_hand(consul_agent, Checks=[{"CheckID": "api-1:http", "TTL": "1h", "Status": "critical"}])
    reconcile(api, Declared(spec=spec("api-1"), claim=claim_of("api-1")))
    reconcile(api, spec("api-1", tags=("edited",)))
    now = api.agent_instances()["api-1"]
    assert (now.owner, now.tags, now.health) == (OWNER.name, ("edited",), Health.CRITICAL)


def test_check_left_behind_by_an_interrupted_update_is_removed_by_the_next_run(api, monkeypatch):
    reconcile(api, spec("api-1", check=CheckSpec(kind=CheckKind.TCP, **RARE)))
    edited = spec("api-1", check=CheckSpec(**RARE))
    with monkeypatch.context() as patch:
        patch.setattr(api, "deregister_check", lambda _id: (_ for _ in ()).throw(ConsulRefusedError("no", status=403)))
        assert [result.error for result in reconcile(api, edited)] == ["no"]
    assert checks_of(api, "api-1").keys() == {"api-1:tcp", "api-1:http"}
    assert [result.ok for result in reconcile(api, edited)] == [True]
    assert checks_of(api, "api-1").keys() == {"api-1:http"}


def test_check_removed_by_hand_is_registered_again(api, consul_agent):
    reconcile(api, spec("api-1", check=CheckSpec(**RARE)))
    api.deregister_check("api-1:http")
    wait_until(lambda: api.instances("api", passing=True).data, what="the instance without a check")
    with PassingPoller(consul_agent, "api") as poller:
        reconcile(api, spec("api-1", check=CheckSpec(**RARE)))
    assert poller.seen == [{"api-1"}]
    assert checks_of(api, "api-1") == {"api-1:http": "passing"}


def test_self_registered_instance_that_left_after_planning_is_not_registered_again(api):
    api.register(spec("self"), marks={META_SELF: "0"})
    plan = plan_of([Declared(spec=spec("self", tags=("declared",)))], take_snapshot(api))
    api.deregister("self")
    (result,) = apply_items(plan.items, api, marks=marks)
    assert "left by itself" in result.error
    assert api.agent_instances() == {}


# -- evictions and recoveries -----------------------------------------------------------------------------------------


def test_evicted_instances_are_deregistered(api):
    api.register(spec("dead"), marks=marks("dead"))
    api.register(spec("dead-too", port=10), marks={META_SELF: "0"})
    dead = {"dead": "critical for 31 s", "dead-too": "critical for 32 s"}
    results = reconcile(api, spec("dead"), evict=dead)
    assert [(result.item.action, result.ok) for result in results] == [(Action.EVICT, True)] * 2
    assert api.agent_instances() == {}


def test_recovered_instance_is_registered_as_passing(api):
    check = CheckSpec(kind=CheckKind.TTL, interval="1h")
    reconcile(
        api, Declared(spec=spec("back", check=check), evicted_reason="dead", recovered=True), spec("new", check=check)
    )
    assert checks_of(api, "back") == {"back:ttl": "passing"}
    assert checks_of(api, "new") == {"new:ttl": "critical"}


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_reason_during_run_skips_remaining_items(api):
    reported: list[ItemResult] = []
    declared = [spec(f"api-{number:03}", port=number + 1) for number in range(20 * CONCURRENCY)]
    reported_at_checks: list[int] = []

    def stop_reason() -> str:
        reported_at_checks.append(len(reported))
        return "the database is away" if reported else ""

    def record(result: ItemResult) -> None:
        reported.append(result)
        time.sleep(0.01)  # so that items are left at the next check

    results = reconcile(api, *declared, on_result=record, stop_reason=stop_reason)

    done = [result for result in results if result.ok]
    left = [result for result in results if not result.ok]
    assert [result.item.id for result in results] == [spec.id for spec in declared]
    assert reported_at_checks[0] == 0
    assert len(done) > 0
    assert {result.error for result in left} == {"not tried, because the database is away"}
    assert not any(result.attempted for result in left)
    assert api.agent_instances().keys() == {result.item.id for result in done}


def test_stop_reason_before_run_skips_all_items(api):
    results = reconcile(api, spec("a"), spec("b", port=10), stop_reason=lambda: "another watcher leads now")
    assert [result.error for result in results] == ["not tried, because another watcher leads now"] * 2
    assert api.agent_instances() == {}


def test_removal_stop_reason_is_checked_per_removal_and_skips_that_removal_only(api):
    for number, name in enumerate(("gone", "dead", "kept")):
        api.register(spec(name, port=number + 1), marks=marks(name))
    answers = ["", "another watcher leads now"]
    results = reconcile(
        api,
        spec("dead", port=2),
        spec("kept", port=33),
        spec("new", port=44),
        evict={"dead": "critical for 31 s"},
        removal_stop_reason=lambda: answers.pop(0),
    )
    assert answers == []  # called exactly twice
    assert {result.item.id: result.error for result in results} == {
        "dead": "", "gone": "not tried, because another watcher leads now", "kept": "", "new": "",
    }  # fmt: skip
    assert {key: instance.port for key, instance in api.agent_instances().items()} == {"gone": 1, "kept": 33, "new": 44}


def test_callbacks_run_in_the_calling_thread(api):
    threads = set()

    def record(*_: object) -> str:
        threads.add(threading.current_thread())
        return ""

    api.register(spec("gone"), marks=marks("gone"))
    reconcile(
        api, spec("a", port=1), spec("b", port=2), on_result=record, stop_reason=record, removal_stop_reason=record
    )
    assert threads == {threading.current_thread()}


def test_on_result_error_is_raised_and_stops_the_run(api):
    def record(_result: ItemResult) -> None:
        raise ZeroDivisionError

    declared = [spec(f"api-{number:03}", port=number + 1) for number in range(20 * CONCURRENCY)]
    with pytest.raises(ZeroDivisionError):
        reconcile(api, *declared, on_result=record)
    assert len(api.agent_instances()) <= 3 * CONCURRENCY


# -- concurrency ------------------------------------------------------------------------------------------------------


def test_apply_items_writes_concurrently_up_to_the_limit(api, monkeypatch):
    running, peak, lock = 0, 0, threading.Lock()
    all_running = threading.Barrier(CONCURRENCY)

    def register(*_args: object, **_kwargs: object) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        all_running.wait(timeout=10)  # would break if fewer ran at once
        with lock:
            running -= 1

    monkeypatch.setattr(api, "register", register)
    results = reconcile(api, *(spec(f"api-{number}", port=number + 1) for number in range(2 * CONCURRENCY)))
    assert all(result.ok for result in results)
    assert peak == CONCURRENCY


def test_item_result_as_dict_is_plain_data(api):
    (result,) = reconcile(api, spec("api-1"))
    data = result.as_dict()
    assert {key: data[key] for key in ("action", "id", "ok", "error")} == {
        "action": "register", "id": "api-1", "ok": True, "error": "",
    }  # fmt: skip
    assert data["seconds"] > 0


@pytest.mark.parametrize("declared", [[], [spec("ours", port=10)]], ids=["remove", "update"])
def test_instance_released_after_planning_is_neither_removed_nor_updated(api, declared):
    api.register(spec("ours"), marks=marks("ours"))
    plan = plan_of([Declared(spec=item) for item in declared], take_snapshot(api))
    api.register(spec("ours"), marks=None)
    (result,) = apply_items(plan.items, api, marks=marks)
    assert "isn't ours any more" in result.error
    now = api.agent_instances()["ours"]
    assert (now.port, dict(now.meta)) == (9, {})


# -- what only the catalog has ----------------------------------------------------------------------------------------


def catalog_ids(api: ConsulApi) -> set[str]:
    return {instance.id for instance in api.instances("api").data}


def deregister_orphan(api: ConsulApi, instance_id: str) -> ItemResult:
    """Applies the removal of an instance from the catalog, as if only the catalog had it."""
    name = api.agent_node().name
    observed = replace(registered(spec(instance_id), marks=marks(instance_id)), node=name, datacenter=DATACENTER)
    item = PlanItem.about(Action.DEREGISTER, SyncStatus.OUT_OF_SYNC, "orphaned", None, observed, cause=Cause.ORPHANED)
    (result,) = apply_items([item], api, marks=marks)
    return result


def put_into_catalog(api: ConsulApi, instance_id: str, meta: Mapping[str, str]) -> None:
    service = {"ID": instance_id, "Service": "api", "Address": "127.0.0.1", "Port": 9, "Meta": dict(meta)}
    body = {"Node": api.agent_node().name, "Address": "127.0.0.1", "SkipNodeUpdate": True, "Service": service}
    api.http.request("PUT", "/v1/catalog/register", data=json.dumps(body))


def test_deregister_orphan_takes_it_out_of_the_catalog_and_twice_is_no_error(api):
    put_into_catalog(api, "gone", marks("gone"))
    wait_until(lambda: catalog_ids(api) == {"gone"}, what="the entry")
    assert deregister_orphan(api, "gone").ok
    wait_until(lambda: not catalog_ids(api), what="the entry to be gone")
    assert deregister_orphan(api, "gone").ok


def test_deregister_orphan_that_the_agent_has_is_refused(api):
    api.register(spec("alive"), marks=marks("alive"))
    wait_until(lambda: catalog_ids(api) == {"alive"}, what="the catalog")
    assert "Its agent has it" in deregister_orphan(api, "alive").error
    assert catalog_ids(api) == {"alive"}


def test_deregister_orphan_that_somebody_else_registered_since_is_refused(api):
    put_into_catalog(api, "theirs", {})
    wait_until(lambda: catalog_ids(api) == {"theirs"}, what="the entry")
    assert "It isn't ours any more" in deregister_orphan(api, "theirs").error
    assert catalog_ids(api) == {"theirs"}
    api.deregister_from_catalog(api.agent_node().name, "theirs")
